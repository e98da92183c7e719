"""The form of a chat, the same for every environment: one user message, below the skill if any.

It says what is told to whom; where the skill stands in the prompt, the model's chat template
decides (`policy.chat`).
"""

Message = dict[str, str]
"""`role` (system or user) and `content`."""


def chat(text: str, skill: str | None) -> list[Message]:
    """`text` as the user's message; the skill, unless None or empty, has the role `system`."""
    messages = [{"role": "user", "content": text}]
    if skill:
        messages.insert(0, {"role": "system", "content": skill})
    return messages
