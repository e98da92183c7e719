"""Practice episodes for the warm start: many shops, each with lines of its own.

A practice shop is one category of a shop as large as the configured one, so that what a search
finds looks the same; the episode is played on the environment itself.
"""

import random
from functools import lru_cache
from typing import Any

from sdar.environments.base import FIRST_OPENING, Observation, Task
from sdar.environments.common import ActionListPractice
from sdar.environments.webshop.engine.catalogue import Catalogue
from sdar.environments.webshop.engine.environment import WebshopEnvironment
from sdar.environments.webshop.engine.goals import goal_task
from sdar.environments.webshop.expert import make_expert
from sdar.environments.webshop.world.records import BLOCK, make_records
from sdar.environments.webshop.world.shop import Shop

# Shops of demonstrations are numbered from here, far from any shop one would train in.
FIRST_SHOP = 1_000_000


class ShopPractice(ActionListPractice):
    """One goal in a practice shop with the expert beside it."""

    def __init__(
        self, index: int, shop: Shop, task: Task, environment: WebshopEnvironment, hinted: bool
    ) -> None:
        self.task = task
        self.hinted = hinted
        self.knowledge = shop
        self._environment = environment
        self.observation = environment.reset(task)
        self._expert = make_expert(task, self.observation, shop if hinted else None, index)

    def mistake(self, draw: random.Random) -> str:
        return mistake(self.task, self.observation, draw)


def mistake(task: Task, observation: Observation, draw: random.Random) -> str:
    """Any click but the one that ends the episode, or a search in the customer's words."""
    clicks = [
        action
        for action in observation.admissible_actions
        if action.startswith("click[") and action != "click[buy now]"
    ]
    if clicks:
        return draw.choice(clicks)
    words = task.instruction.replace(",", "").split()[2:5]
    draw.shuffle(words)
    return f"search[{' '.join(words)}]"


def practice(config: Any, index: int, *, opening: bool = False) -> ShopPractice:
    """Episode number `index`: a function of the configuration and the number.

    Episodes share `warm_start.demonstrations.worlds` shops; each opening has one of its own, with
    one type of product, for no more than its first page is looked at.
    """
    demonstrations, environment = config.warm_start.demonstrations, config.environment
    categories = tuple(environment.categories)
    number = FIRST_OPENING + index if opening else index % demonstrations.worlds
    category = categories[number % len(categories)]
    products = BLOCK * len(categories) if opening else environment.products
    catalogue = _catalogue(FIRST_SHOP + number, products, categories, category)
    # Drawn, not counted: no goal may go with a number, nor the hint with a shop.
    draw = random.Random(f"webshop practice {demonstrations.seed} {index} {opening}")
    goal = catalogue.goals[draw.randrange(len(catalogue.goals))]
    return ShopPractice(
        index=FIRST_OPENING + index if opening else index,
        shop=Shop.draw(FIRST_SHOP + number),
        task=goal_task(goal, "practice"),
        environment=WebshopEnvironment(catalogue, environment.observation),
        hinted=opening or draw.random() < demonstrations.hinted,
    )


@lru_cache(maxsize=64)
def _catalogue(shop: int, products: int, categories: tuple[str, ...], category: str) -> Catalogue:
    records = make_records(Shop.draw(shop), products, categories, only=category)
    return Catalogue.from_records(records.items, records.instructions, seed=shop)
