"""The form of a chat, the same for every environment: one user message, below the skill if any."""

Message = dict[str, str]
"""`role` (system or user) and `content`."""


def chat(text: str, skill: str | None) -> list[Message]:
    """`text` as the user's message; the skill, unless None or empty, is the system message."""
    messages = [{"role": "user", "content": text}]
    if skill:
        messages.insert(0, {"role": "system", "content": skill})
    return messages
