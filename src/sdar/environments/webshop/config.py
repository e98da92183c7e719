"""Configuration of the WebShop environment."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, PositiveFloat, PositiveInt

from sdar.environments.chat import PromptLayout
from sdar.environments.section import EnvironmentSection
from sdar.files.paths import GivenPath
from sdar.section import NOTHING, NonNegative, Section

WebshopCategory = Literal["beauty", "electronics", "garden", "fashion", "grocery"]
WEBSHOP_CATEGORIES: tuple[WebshopCategory, ...] = get_args(WebshopCategory)


DATA_FILES = ("items_shuffle*.json", "items_ins*.json", "items_human_ins*.json", "nouns*.json")


def data_files(folder: Path) -> list[Path]:
    """WebShop's files in a folder."""
    return sorted({path for pattern in DATA_FILES for path in folder.glob(pattern)})


class GoalCounts(Section):
    """How many goals each split keeps, at most."""

    train: PositiveInt = 400
    test: PositiveInt = 200


class WebshopConfig(EnvironmentSection):
    """The WebShop text environment on its own page and reward semantics."""

    usual_panels: ClassVar = ("test",)
    extras: ClassVar = {"webshop": ("rapidfuzz", "regex"), "nouns": ("spacy",)}
    generated: ClassVar = ("products",)

    name: Literal["webshop"] = "webshop"
    data: GivenPath | None = None
    """A folder with WebShop's items_shuffle*.json, items_ins_v2*.json and items_human_ins.json, and
    nouns*.json ({asin: nouns of the name}) unless sdar[nouns] is installed. null: generate a
    catalogue."""
    products: PositiveInt = 300
    """Products of the generated catalogue."""
    goals: GoalCounts = GoalCounts()
    human_goals: bool = False
    """Use the goals written by people (items_human_ins.json) instead of the synthetic ones."""
    split: Literal["product", "upstream"] = "product"
    """`product`: no product is in both splits. `upstream`: goals 0-499 of one shuffle are the
    test."""
    categories: tuple[WebshopCategory, ...] = WEBSHOP_CATEGORIES
    seed: int = 0
    """Seed of the generated catalogue, of prices and of goals."""
    observation: Literal["text", "text_rich"] = "text"
    max_turns: PositiveInt = 15
    history: Annotated[int, Field(ge=0)] = 2
    prompt_layout: PromptLayout = "paper"
    """Order of the prompt's fields. `paper`: the paper's. `prefix`: fixed words first, what is of
    one turn alone last, so that prompts begin alike, and beginnings that are alike can be computed
    once. Whatever makes or reads a prompt follows it; its results are another experiment's."""
    success_reward: PositiveFloat = 10.0
    invalid_action_penalty: NonNegative = 0.1
    workers: Annotated[int, Field(ge=0), NOTHING] = 0
    """Kept for symmetry: pages are cheap and are made in the trainer's own process."""

    def data_paths(self, splits: Sequence[str]) -> dict[str, list[Path]]:
        """All of WebShop's files, whatever the splits: every goal is played in the whole shop."""
        return {} if self.data is None else {"data": data_files(self.data)}

    def modules(self) -> tuple[str, ...]:
        """Those of the reward and of the search."""
        return self.extras["webshop"]

    @property
    def task_types(self) -> tuple[str, ...]:
        """What skills are looked up by."""
        return self.categories


SECTION = WebshopConfig
