"""What a text game shares with other text games: one action per turn, chosen from a list."""

import random
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from sdar.environments.base import (
    Expert,
    Knowledge,
    MakeExpert,
    Moment,
    Observation,
    Task,
)
from sdar.environments.chat import ACTION_FORM, ACTION_FORM_AHEAD, Message, chat
from sdar.environments.parsing import ParsedAction, parse_action_block
from sdar.environments.recorded import RecordedFormat


class ActionListPackage:
    """The parts of an `EnvironmentPackage` for environments that list their possible actions."""

    parsing_cases: str | None = None
    recorded: Sequence[RecordedFormat] = ()
    world_file: str | None = None
    fallback_characters = 30
    """Without an action block, so many characters at a response's end stand for the action."""

    def knowledge(self, folder: Path) -> Knowledge | None:
        """Nothing beyond what the skills say."""
        return None

    def build_messages(self, moment: Moment, skill: str | None = None) -> list[Message]:
        can = "You can: " + ", ".join(f"'{action}'" for action in moment.admissible_actions)
        taken = f"You have taken {moment.index} actions."
        if moment.layout == "prefix":
            lines = [ACTION_FORM_AHEAD, moment.task.instruction]
            for past in moment.history:
                lines += [f"You see: {past.observation}", f"You do: {past.action}"]
            lines += [f"You see: {moment.observation}", can, taken]
            return chat("\n".join(lines), skill)
        lines = [f"{moment.task.instruction} {taken}"]
        lines += [f"You saw: {past.observation} You did: {past.action}" for past in moment.history]
        lines += [f"Now you see: {moment.observation}", can, ACTION_FORM]
        return chat("\n".join(lines), skill)

    def parse(self, response: str) -> ParsedAction:
        return parse_action_block(response, self.fallback_characters)

    def experts(self, environment: Any, folder: Path) -> MakeExpert:
        """None: there is no real data."""
        raise NotImplementedError  # never asked for: `plays_data` is false

    def mistake(self, task: Task, observation: Observation, draw: random.Random) -> str:
        """Any admissible action."""
        return draw.choice(observation.admissible_actions)

    def names(self) -> Collection[str]:
        """None: what is copied is numbered, or copied as a whole action."""
        return ()

    def response(self, thought: str, action: str) -> str:
        return f"<think>{thought}</think><action>{action}</action>"

    def is_admissible(self, action: str, admissible_actions: Sequence[str]) -> bool:
        return action in admissible_actions


class ActionListPractice:
    """How a `base.Practice` is played; a subclass sets these attributes and `knowledge`."""

    task: Task
    hinted: bool
    stuck = False
    observation: Observation
    _environment: Any
    _expert: Expert

    def expert_turn(self) -> tuple[str, str]:
        return self._expert.act()

    def mistake(self, draw: random.Random) -> str:
        """Any admissible action."""
        return draw.choice(self.observation.admissible_actions)

    def step(self, action: str) -> Observation:
        self.observation = self._environment.step(action)
        self._expert.observe(action, self.observation)
        return self.observation
