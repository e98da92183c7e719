"""The WebShop prompt: one user message per turn, with the last pages as a window inside it.

Its fields: task, window of (page, action), current page, available actions. Of a page only what
follows the instruction is shown, each part quoted. The skill, where there is one, has the role
`system`. The order of the fields is the moment's layout.
"""

from sdar.environments.base import Moment
from sdar.environments.chat import ACTION_FORM, ACTION_FORM_AHEAD, Message, chat

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


def build_messages(moment: Moment, skill: str | None = None) -> list[Message]:
    """The chat of one turn; the number of turns taken is not told, as in the reference."""
    text = _text(moment)
    if len(text) > LONGEST:
        text = _text(moment.without_oldest(len(moment.history)))
    return chat(text, skill)


def _text(moment: Moment) -> str:
    instruction = moment.task.instruction
    actions = ", ".join(f"'{action}'" for action in moment.admissible_actions)
    can = f"You can: [{actions}]"
    if moment.layout == "prefix":
        lines = [f"You are an agent in a shop. {ACTION_FORM_AHEAD}"]
        lines.append(f"Your task is to: {instruction}")
        for past in moment.history:
            lines.append(f"You see: {_quoted(past.observation, instruction)}")
            lines.append(f"You do: {past.action}")
        lines += [f"You see: {_quoted(moment.observation, instruction)}", can]
        return "\n".join(lines)
    lines = [f"You are an agent in a shop. Your task is to: {instruction}"]
    for past in moment.history:
        lines.append(f"You saw: {_quoted(past.observation, instruction)}")
        lines.append(f"You did: {past.action}")
    lines += [f"Now you see: {_quoted(moment.observation, instruction)}", can, ACTION_FORM]
    return "\n".join(lines)


def _quoted(observation: str, instruction: str) -> str:
    return ", ".join(f"'{part}'" for part in page_parts(observation, instruction))
