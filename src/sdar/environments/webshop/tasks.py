"""WebShop's tasks: generate a shop, or list the goals of real data.

A generated shop lies in the tasks' folder as WebShop's own files, and `shop.json` says whose it is.
"""

from pathlib import Path

from sdar.environments.base import Task
from sdar.environments.webshop.config import WebshopConfig
from sdar.environments.webshop.engine.catalogue import Catalogue
from sdar.environments.webshop.engine.goals import goal_task, split_by_product, split_upstream
from sdar.environments.webshop.world.records import make_records
from sdar.environments.webshop.world.shop import Shop
from sdar.errors import SdarError

SHOP_FILE = "shop.json"
INDEX_FOLDER = "index"


def make_tasks(environment: WebshopConfig, folder: Path) -> tuple[list[Task], str]:
    """Fill `folder`; the tasks, and where they come from."""
    if environment.data is None:
        if environment.human_goals:
            raise SdarError(
                "environment.human_goals: nobody wrote goals for a generated shop; set it to "
                "false, or environment.data to a folder with items_human_ins.json"
            )
        shop = Shop.draw(environment.seed)
        make_records(shop, environment.products, environment.categories).write(folder)
        shop.write(folder / SHOP_FILE)
        source = f"goals in a generated shop of {environment.products} products"
    else:
        source = f"{'human' if environment.human_goals else 'synthetic'} goals of real WebShop data"
    source += f", seed {environment.seed}, split {environment.split}"
    return goal_tasks(environment, open_catalogue(environment, folder)), source


def goal_tasks(environment: WebshopConfig, catalogue: Catalogue) -> list[Task]:
    """The first goals of each split in the chosen categories, as many as there should be.

    Raises SdarError when a split has none.
    """
    goals = catalogue.goals
    if environment.split == "upstream":
        splits = split_upstream(len(goals))
    else:
        splits = split_by_product(goals, environment.seed)
    tasks: list[Task] = []
    for split, most in environment.goals.model_dump().items():
        chosen: list[Task] = []
        for index in splits[split]:
            if len(chosen) == most:
                break
            goal = goals[index]
            if goal.category in environment.categories:
                chosen.append(goal_task(goal, split))
        if not chosen:
            raise SdarError(
                f"environment.split: of {len(goals)} goals none of the chosen categories is left "
                f"for {split}; raise environment.products, or change environment.split or "
                "environment.categories"
            )
        tasks += chosen
    return tasks


def open_catalogue(environment: WebshopConfig, folder: Path) -> Catalogue:
    """What the tasks in `folder` are played on. Of real data, products and search index are made
    once and kept there."""
    if environment.data is None:
        return Catalogue.open(folder, environment.seed)
    return Catalogue.open(
        environment.data.resolve(),
        environment.seed,
        human_goals=environment.human_goals,
        cache=folder / INDEX_FOLDER,
    )


def read_shop(folder: Path) -> Shop | None:
    """The shop the tasks in `folder` are set in; None for real data."""
    path = folder / SHOP_FILE
    return Shop.read(path) if path.exists() else None
