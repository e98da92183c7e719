"""The ALFWorld prompt: one user message a turn, with the history as a window inside the text.

Fields as in METHOD section 5 (the reference's ALFWorld setting): task, number of turns taken,
window of (observation, action) pairs, current turn, current observation, admissible actions. The
skill, where there is one, is the system message: inside a role, before everything else.
"""

from collections.abc import Sequence

from sdar.environments.base import PastTurn

Message = dict[str, str]


def room_description(first_observation: str) -> str:
    """The first observation without the engine's banner and without the task sentence."""
    paragraphs = [part.strip() for part in first_observation.split("\n\n")]
    kept = [p for p in paragraphs if p and not p.startswith(("-=", "Your task is to:"))]
    return " ".join(kept)


def build_messages(
    instruction: str,
    history: Sequence[PastTurn],
    observation: str,
    admissible_actions: Sequence[str],
    turn: int,
    skill: str | None = None,
) -> list[Message]:
    """The chat of one turn.

    `turn` counts from 0 (turns taken so far); `history` is the window, oldest first, already cut
    to its length; `skill` becomes the system message (the teacher's prompt, or a student that is
    allowed skills).
    """
    lines = [
        f"You are an agent in a house. Your task is to: {instruction}",
        f"You have taken {turn} actions.",
    ]
    for past in history:
        lines.append(f"You saw: {room_description(past.observation)} You did: {past.action}")
    actions = ", ".join(f"'{action}'" for action in admissible_actions)
    lines += [
        f"Now, at turn {turn + 1}, you see: {room_description(observation)}",
        f"You can: [{actions}]",
        "First reason inside <think></think>, then give one of these actions inside "
        "<action></action>.",
    ]
    messages = [{"role": "user", "content": "\n".join(lines)}]
    if skill:
        messages.insert(0, {"role": "system", "content": skill})
    return messages
