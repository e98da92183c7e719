"""TextWorldExpress as the rest of the code sees it: all that a further environment needs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdar.environments.base import EnvironmentPackage, EnvironmentPool, Knowledge, Observation, Task
from sdar.environments.common import ActionListPackage
from sdar.environments.pools import InProcessPool
from sdar.environments.textworld_express.engine import ExpressEnvironment
from sdar.environments.textworld_express.expert import GoldExpert
from sdar.environments.textworld_express.practice import practice
from sdar.environments.textworld_express.tasks import make_tasks, read_parameters


class TextworldExpressPackage(ActionListPackage):
    """See `base.EnvironmentPackage`."""

    name = "textworld_express"
    practice = staticmethod(practice)

    def make_tasks(
        self, environment: Any, panels: Sequence[str], folder: Path
    ) -> tuple[list[Task], str]:
        return make_tasks(environment, folder)

    def open_pool(self, environment: Any, folder: Path) -> EnvironmentPool:
        parameters, seconds = environment.parameters, environment.worker_timeout
        return InProcessPool(lambda: ExpressEnvironment(parameters, seconds))

    def expert(self, task: Task, first: Observation, knowledge: Knowledge | None) -> GoldExpert:
        parameters = read_parameters(task.location)
        return GoldExpert(ExpressEnvironment(parameters).gold_actions(task.location), first)


PACKAGE: EnvironmentPackage = TextworldExpressPackage()
