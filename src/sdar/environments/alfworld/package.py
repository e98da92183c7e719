"""ALFWorld as the rest of the code sees it."""

from pathlib import Path
from typing import Any

from sdar.environments.alfworld.practice import GameExpert, experts, practice
from sdar.environments.alfworld.prompt import build_messages
from sdar.environments.alfworld.replay import FORMATS
from sdar.environments.alfworld.tasks import HOME_FILE, make_tasks, read_home
from sdar.environments.base import EnvironmentPackage, EnvironmentPool
from sdar.environments.common import ActionListPackage


class AlfworldPackage(ActionListPackage):
    """See `base.EnvironmentPackage`."""

    name = "alfworld"
    parsing_cases = "alfworld"
    recorded = FORMATS
    world_file = HOME_FILE

    make_tasks = staticmethod(make_tasks)
    knowledge = staticmethod(read_home)
    build_messages = staticmethod(build_messages)
    expert = staticmethod(GameExpert)
    practice = staticmethod(practice)
    experts = staticmethod(experts)

    def open_pool(self, environment: Any, folder: Path) -> EnvironmentPool:
        from sdar.environments.alfworld.engine.pool import make_pool

        return make_pool(environment)


PACKAGE: EnvironmentPackage = AlfworldPackage()
