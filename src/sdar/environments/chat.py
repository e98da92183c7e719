"""The form of a chat, the same for every environment: one user message, below the skill if any.

It says what is told to whom; where the skill stands in the prompt, the model's chat template
decides (`policy.chat`).
"""

from typing import Literal

Message = dict[str, str]
"""`role` (system or user) and `content`."""

PromptLayout = Literal["paper", "prefix"]
"""In which order a prompt says its fields. `prefix`: fixed words first, then what a task's turns
share, last what is of one turn alone; what is seen now has the words of what was seen before. So a
prompt begins as many others do."""

ACTION_FORM = (
    "First reason inside <think></think>, then give one of these actions inside <action></action>."
)
"""What a response looks like where actions are listed, said behind the list."""
ACTION_FORM_AHEAD = ACTION_FORM.replace("these actions", "the actions that you can take")
"""The same, said before the list."""


def chat(text: str, skill: str | None) -> list[Message]:
    """`text` as the user's message; the skill, unless None or empty, has the role `system`."""
    messages = [{"role": "user", "content": text}]
    if skill:
        messages.insert(0, {"role": "system", "content": skill})
    return messages
