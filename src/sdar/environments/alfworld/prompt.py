"""The ALFWorld prompt: one user message per turn, with the history as a window inside the text.

Its fields are those of the reference's ALFWorld setting: task, number of turns taken, window of
(observation, action) pairs, current turn, current observation, admissible actions. The skill, where
there is one, has the role `system` (`environments.chat`). The order of the fields is the moment's
layout.
"""

from sdar.environments.base import Moment
from sdar.environments.chat import ACTION_FORM, ACTION_FORM_AHEAD, Message, chat


def room_description(first_observation: str) -> str:
    """The first observation without the engine's banner and without the task sentence."""
    paragraphs = [part.strip() for part in first_observation.split("\n\n")]
    kept = [p for p in paragraphs if p and not p.startswith(("-=", "Your task is to:"))]
    return " ".join(kept)


def build_messages(moment: Moment, skill: str | None = None) -> list[Message]:
    """The chat of one turn; `skill` is told to the teacher, or to a student allowed skills."""
    lines = _prefix_lines(moment) if moment.layout == "prefix" else _paper_lines(moment)
    return chat("\n".join(lines), skill)


def _paper_lines(moment: Moment) -> list[str]:
    lines = [
        f"You are an agent in a house. Your task is to: {moment.task.instruction}",
        f"You have taken {moment.index} actions.",
    ]
    for past in moment.history:
        lines.append(f"You saw: {room_description(past.observation)} You did: {past.action}")
    return [
        *lines,
        f"Now, at turn {moment.index + 1}, you see: {room_description(moment.observation)}",
        f"You can: [{_actions(moment)}]",
        ACTION_FORM,
    ]


def _prefix_lines(moment: Moment) -> list[str]:
    lines = [
        f"You are an agent in a house. {ACTION_FORM_AHEAD}",
        f"Your task is to: {moment.task.instruction}",
    ]
    for past in moment.history:
        lines += [f"You see: {room_description(past.observation)}", f"You do: {past.action}"]
    return [
        *lines,
        f"You see: {room_description(moment.observation)}",
        f"You can: [{_actions(moment)}]",
        f"You have taken {moment.index} actions: now is turn {moment.index + 1}.",
    ]


def _actions(moment: Moment) -> str:
    return ", ".join(f"'{action}'" for action in moment.admissible_actions)
