"""ALFWorld as the rest of the code sees it."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from sdar.environments.alfworld.practice import GameExpert, GamePractice, practice
from sdar.environments.alfworld.prompt import build_messages
from sdar.environments.alfworld.replay import FORMATS
from sdar.environments.alfworld.tasks import HOME_FILE, make_tasks, read_home
from sdar.environments.base import (
    EnvironmentPackage,
    EnvironmentPool,
    Knowledge,
    Observation,
    Task,
)
from sdar.environments.common import ActionListPackage


class AlfworldPackage(ActionListPackage):
    """See `base.EnvironmentPackage`."""

    name = "alfworld"
    parsing_cases = "alfworld"
    recorded = FORMATS
    world_file = HOME_FILE

    def make_tasks(
        self, environment: Any, panels: Sequence[str], folder: Path
    ) -> tuple[list[Task], str]:
        return make_tasks(environment, panels, folder)

    def knowledge(self, folder: Path) -> Knowledge | None:
        """The home's habits; None for real games."""
        return read_home(folder)

    def open_pool(self, environment: Any, folder: Path) -> EnvironmentPool:
        from sdar.environments.alfworld.engine.pool import make_pool

        return make_pool(environment)

    build_messages = staticmethod(build_messages)

    def expert(self, task: Task, first: Observation, knowledge: Knowledge | None) -> GameExpert:
        return GameExpert(task, first, knowledge)

    def names(self) -> Collection[str]:
        """None beside the numbered ones."""
        return ()

    def practice(self, config: Any, index: int, *, opening: bool = False) -> GamePractice:
        return practice(config, index, opening=opening)


PACKAGE: EnvironmentPackage = AlfworldPackage()
