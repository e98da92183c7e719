"""ALFWorld as the rest of the code sees it."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

from sdar.environments.alfworld.practice import GameExpert, GamePractice, practice
from sdar.environments.alfworld.prompt import Message, build_messages
from sdar.environments.alfworld.tasks_stage import make_tasks, read_home
from sdar.environments.base import (
    EnvironmentPackage,
    EnvironmentPool,
    Knowledge,
    Observation,
    PastTurn,
    Task,
)


class AlfworldPackage:
    """See `base.EnvironmentPackage`."""

    name = "alfworld"
    parser: Literal["alfworld"] = "alfworld"

    def make_tasks(self, config: Any, folder: Path) -> tuple[list[Task], str]:
        return make_tasks(config, folder)

    def knowledge(self, folder: Path) -> Knowledge | None:
        """The home's habits; None for real games."""
        return read_home(folder)

    def open_pool(self, environment: Any, folder: Path) -> EnvironmentPool:
        from sdar.environments.alfworld.pool import make_pool

        return make_pool(environment)

    def build_messages(
        self,
        instruction: str,
        history: Sequence[PastTurn],
        observation: str,
        admissible_actions: Sequence[str],
        turn: int,
        skill: str | None = None,
    ) -> list[Message]:
        return build_messages(instruction, history, observation, admissible_actions, turn, skill)

    def response(self, thought: str, action: str) -> str:
        return f"<think>{thought}</think><action>{action}</action>"

    def is_admissible(self, action: str, admissible_actions: Sequence[str]) -> bool:
        return action in admissible_actions

    def expert(self, task: Task, first: Observation, knowledge: Knowledge | None) -> GameExpert:
        return GameExpert(task, first, knowledge)

    def names(self) -> Collection[str]:
        """None beside the numbered ones."""
        return ()

    def practice(self, config: Any, index: int, *, opening: bool = False) -> GamePractice:
        return practice(config, index, opening=opening)


PACKAGE: EnvironmentPackage = AlfworldPackage()
