"""WebShop as the rest of the code sees it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdar.environments.base import (
    EnvironmentPackage,
    EnvironmentPool,
    MakeExpert,
    Observation,
    Task,
)
from sdar.environments.common import ActionListPackage
from sdar.environments.pools import InProcessPool
from sdar.environments.webshop.engine.environment import WebshopEnvironment
from sdar.environments.webshop.expert import make_expert
from sdar.environments.webshop.goal_expert import GoalExpert
from sdar.environments.webshop.practice import mistake, practice
from sdar.environments.webshop.prompt import build_messages
from sdar.environments.webshop.replay import FORMATS
from sdar.environments.webshop.tasks import SHOP_FILE, make_tasks, open_catalogue, read_shop
from sdar.environments.webshop.world.words import shop_words


class WebshopPackage(ActionListPackage):
    """See `base.EnvironmentPackage`."""

    name = "webshop"
    parsing_cases = "webshop"
    recorded = FORMATS
    world_file = SHOP_FILE
    fallback_characters = 20

    knowledge = staticmethod(read_shop)
    build_messages = staticmethod(build_messages)
    expert = staticmethod(make_expert)
    names = staticmethod(shop_words)
    practice = staticmethod(practice)
    mistake = staticmethod(mistake)

    def make_tasks(
        self, environment: Any, panels: Sequence[str], folder: Path
    ) -> tuple[list[Task], str]:
        return make_tasks(environment, folder)

    def open_pool(self, environment: Any, folder: Path) -> EnvironmentPool:
        """All episodes on one catalogue, in this process."""
        catalogue = open_catalogue(environment, folder)
        return InProcessPool(lambda: WebshopEnvironment(catalogue, environment.observation))

    def experts(self, environment: Any, folder: Path) -> MakeExpert:
        catalogue = open_catalogue(environment, folder)

        def make(task: Task, first: Observation, seed: int) -> GoalExpert:
            goal = catalogue.goal(task.id.rpartition("/")[2])
            return GoalExpert(task, first, goal, catalogue.by_asin(goal.asin).options)

        return make

    def is_admissible(self, action: str, admissible_actions: Sequence[str]) -> bool:
        """As listed; where a search is offered, with any words."""
        if action.startswith("search[") and action.endswith("]"):
            return any(offered.startswith("search[") for offered in admissible_actions)
        return super().is_admissible(action, admissible_actions)


PACKAGE: EnvironmentPackage = WebshopPackage()
