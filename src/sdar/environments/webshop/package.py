"""WebShop as the rest of the code sees it."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from sdar.environments.base import (
    EnvironmentPackage,
    EnvironmentPool,
    Expert,
    Knowledge,
    Observation,
    Task,
)
from sdar.environments.common import ActionListPackage
from sdar.environments.pools import InProcessPool
from sdar.environments.webshop.engine.environment import WebshopEnvironment
from sdar.environments.webshop.expert import make_expert
from sdar.environments.webshop.practice import ShopPractice, practice
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

    def make_tasks(
        self, environment: Any, panels: Sequence[str], folder: Path
    ) -> tuple[list[Task], str]:
        return make_tasks(environment, folder)

    def knowledge(self, folder: Path) -> Knowledge | None:
        """The shop's lines; None for real data."""
        return read_shop(folder)

    def open_pool(self, environment: Any, folder: Path) -> EnvironmentPool:
        """All episodes on one catalogue, in this process."""
        catalogue = open_catalogue(environment, folder)
        return InProcessPool(lambda: WebshopEnvironment(catalogue, environment.observation))

    build_messages = staticmethod(build_messages)

    def is_admissible(self, action: str, admissible_actions: Sequence[str]) -> bool:
        """As listed; where a search is offered, with any words."""
        if action.startswith("search[") and action.endswith("]"):
            return any(offered.startswith("search[") for offered in admissible_actions)
        return super().is_admissible(action, admissible_actions)

    def expert(self, task: Task, first: Observation, knowledge: Knowledge | None) -> Expert:
        return make_expert(task, first, knowledge)

    def names(self) -> Collection[str]:
        """The words and numbers of generated shops."""
        return shop_words()

    def practice(self, config: Any, index: int, *, opening: bool = False) -> ShopPractice:
        return practice(config, index, opening=opening)


PACKAGE: EnvironmentPackage = WebshopPackage()
