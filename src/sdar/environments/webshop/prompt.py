"""The WebShop prompt: one user message a turn, with the last pages as a window inside it.

Fields as in METHOD section 5: task, window of (page, action), current page, available actions. Of
a page only what follows the instruction is shown, each part quoted. The skill, where there is one,
is the system message.
"""

from collections.abc import Sequence

from sdar.environments.base import PastTurn

Message = dict[str, str]

LONGEST = 13_000
"""Characters of a user message; a longer one is written without its history."""


def page_parts(observation: str, instruction: str) -> list[str]:
    """The parts of a page after the instruction; all of them where it is not repeated.

    Pages in `text` mode are parted at " [SEP] ", in `text_rich` mode at line breaks; what the
    latter says has been clicked stands before the instruction, and is kept.
    """
    parts = [part.strip() for part in observation.split(" [SEP] ")]
    if len(parts) == 1:
        parts = [line.strip() for line in observation.splitlines() if line.strip()]
    if instruction.strip() not in parts:
        return parts
    place = parts.index(instruction.strip())
    clicked = [part for part in parts[:place] if part.startswith("You have clicked ")]
    return clicked + parts[place + 1 :]


def build_messages(
    instruction: str,
    history: Sequence[PastTurn],
    observation: str,
    admissible_actions: Sequence[str],
    turn: int,
    skill: str | None = None,
) -> list[Message]:
    """The chat of one turn.

    `history` is the window, oldest first, already cut to its length; `turn` (turns taken so far)
    is not told, as in the reference; `skill` becomes the system message.
    """
    text = _text(instruction, history, observation, admissible_actions)
    if len(text) > LONGEST:
        text = _text(instruction, (), observation, admissible_actions)
    messages = [{"role": "user", "content": text}]
    if skill:
        messages.insert(0, {"role": "system", "content": skill})
    return messages


def _text(
    instruction: str,
    history: Sequence[PastTurn],
    observation: str,
    admissible_actions: Sequence[str],
) -> str:
    lines = [f"You are an agent in a shop. Your task is to: {instruction}"]
    for past in history:
        lines.append(f"You saw: {_quoted(past.observation, instruction)}")
        lines.append(f"You did: {past.action}")
    actions = ", ".join(f"'{action}'" for action in admissible_actions)
    lines += [
        f"Now you see: {_quoted(observation, instruction)}",
        f"You can: [{actions}]",
        "First reason inside <think></think>, then give one of these actions inside "
        "<action></action>.",
    ]
    return "\n".join(lines)


def _quoted(observation: str, instruction: str) -> str:
    return ", ".join(f"'{part}'" for part in page_parts(observation, instruction))
