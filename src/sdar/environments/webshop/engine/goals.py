"""Goals: which product, with which options, below which price; and how they are split.

A synthetic goal is an instruction with one choice for each of the product's options; a human goal
is an instruction a person wrote. Both are functions of (seed, product) alone, except `weight`,
which counts how common the attributes are among all goals.
"""

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, overload

from sdar.environments.base import Task
from sdar.environments.webshop.engine.prices import ceiling_text, price_ceiling
from sdar.environments.webshop.engine.products import Product
from sdar.errors import SdarError
from sdar.files.digest import json_digest
from sdar.sums import add_in_order

SHUFFLE_SEED = 233
"""The one shuffle of the original web server."""
UPSTREAM_TEST = 500
"""Goals 0-499 of that shuffle are the test."""
_OF_PRODUCT = ("asin", "category", "query", "name", "product_category")
"""What a goal repeats of its product."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What to buy. `goal_options` maps option names to values, or lists values (human goals).

    `id` is the product's asin with the goal's number among the product's goals, "h" before it for
    human goals; it is empty for goals that came from elsewhere.
    """

    asin: str
    category: str
    query: str
    name: str
    product_category: str
    instruction_text: str
    attributes: tuple[str, ...]
    price_upper: float
    goal_options: dict[str, str] | tuple[str, ...]
    weight: float
    id: str = ""

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Goal":
        """A goal as the original environment writes it (JSON)."""
        try:
            options = record["goal_options"]
            return cls(
                **{key: record[key] for key in (*_OF_PRODUCT, "instruction_text")},
                attributes=tuple(record["attributes"]),
                price_upper=record["price_upper"],
                goal_options=dict(options) if isinstance(options, Mapping) else tuple(options),
                weight=record["weight"],
            )
        except (KeyError, TypeError) as error:
            raise SdarError(
                f"a goal lacks or garbles {error}: expected the keys of a WebShop goal"
            ) from error


def synthetic_count(product: Product) -> int:
    """How many goals its instruction gives: one for every combination of option values."""
    if product.instruction is None:
        return 0
    return math.prod(len(values) for values in product.options.values())


def synthetic_goal(product: Product, number: int, seed: int, weight: float) -> Goal:
    """Goal `number` of a product: the last option name in alphabetical order changes fastest."""
    names = sorted(product.options)
    chosen: dict[str, str] = {}
    rest = number
    for name in reversed(names):
        rest, place = divmod(rest, len(product.options[name]))
        chosen[name] = product.options[name][place]
    options = {name: chosen[name] for name in names}
    ceiling = price_ceiling(product.price, seed, product.asin)
    wished = ", and ".join(f"{name}: {value}" for name, value in options.items())
    text = f"{product.instruction}{' with ' if wished else ''}{wished}{ceiling_text(ceiling)}"
    return _goal(
        product, text, product.instruction_attributes, ceiling, options, weight, f"{number}"
    )


def human_count(product: Product) -> int:
    """How many of its human instructions name an attribute; the others are no goals."""
    return sum(bool(one.attributes) for one in product.human)


def human_goal(product: Product, number: int, seed: int, weight: float = 1.0) -> Goal:
    """Goal `number` among a product's human goals."""
    one = [one for one in product.human if one.attributes][number]
    ceiling = price_ceiling(product.price, seed, f"{product.asin} human {number}")
    text = one.instruction.strip(".") + ceiling_text(ceiling)
    return _goal(product, text, one.attributes, ceiling, one.options, weight, f"h{number}")


def _goal(
    product: Product,
    text: str,
    attributes: tuple[str, ...],
    ceiling: float,
    options: dict[str, str] | tuple[str, ...],
    weight: float,
    number: str,
) -> Goal:
    return Goal(
        **{key: getattr(product, key) for key in _OF_PRODUCT},
        instruction_text=text,
        attributes=attributes,
        price_upper=ceiling,
        goal_options=options,
        weight=weight,
        id=f"{product.asin}-{number}",
    )


class Goals(Sequence[Goal]):
    """All goals of a catalogue, in catalogue order; each is made when it is asked for.

    `counts[p]` goals belong to product `p`; `product(p)` gives it; `frequency` counts the goals
    that have an attribute (None: weights are 1).
    """

    def __init__(
        self,
        counts: Sequence[int],
        product: Callable[[int], Product],
        seed: int,
        human: bool,
        frequency: Mapping[str, int] | None,
    ) -> None:
        self._owners = [place for place, count in enumerate(counts) if count]
        self._ends = list(accumulate(counts[place] for place in self._owners))
        self._product = product
        self._seed = seed
        self.human = human
        self._frequency = frequency

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Goal: ...
    @overload
    def __getitem__(self, index: slice) -> list[Goal]: ...
    def __getitem__(self, index: int | slice) -> Goal | list[Goal]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"goal {index} of {len(self)}")
        index %= len(self)
        block = bisect_right(self._ends, index)
        number = index - (self._ends[block - 1] if block else 0)
        return self.of_product(self._owners[block], number)

    def of_product(self, place: int, number: int) -> Goal:
        """Goal `number` of the product at `place` of the catalogue."""
        product = self._product(place)
        if self.human:
            return human_goal(product, number, self._seed)
        return synthetic_goal(product, number, self._seed, self._weight(product))

    def blocks(self) -> list[range]:
        """The indices of each product's goals, product by product."""
        starts = [0, *self._ends[:-1]]
        return [range(start, end) for start, end in zip(starts, self._ends, strict=True)]

    def _weight(self, product: Product) -> float:
        attributes = product.instruction_attributes
        if self._frequency is None or not attributes:
            return 1.0
        rarities = (1.0 / self._frequency[name] for name in attributes)
        return add_in_order(rarities) / len(attributes)


def split_upstream(count: int) -> dict[str, list[int]]:
    """Indices of `count` goals: shuffled once, the first 500 are the test, the rest the training.

    The reference shuffles in every worker with another seed, so that most of its test goals are
    trained on. Goals of one product are on both sides.
    """
    order = list(range(count))
    random.Random(SHUFFLE_SEED).shuffle(order)
    return {"train": order[UPSTREAM_TEST:], "test": order[:UPSTREAM_TEST]}


def split_by_product(goals: Goals, seed: int, test_share: float = 1 / 3) -> dict[str, list[int]]:
    """Indices of goals with no product in both splits.

    On which side a product is, and where its goals come in the order, is drawn for it alone. The
    order takes one goal of every product, then a second of those that have one, and so on: a few
    products have most of the goals, and a prefix should not be theirs.
    """
    keyed: dict[str, list[tuple[int, float, int]]] = {"train": [], "test": []}
    for block in goals.blocks():
        asin = goals[block.start].asin
        draw = random.Random(f"webshop split {seed} {asin}")
        side = keyed["test" if draw.random() < test_share else "train"]
        place, order = draw.random(), list(block)
        draw.shuffle(order)
        side += [(turn, place, index) for turn, index in enumerate(order)]
    return {name: [index for *_, index in sorted(side)] for name, side in keyed.items()}


def goal_task(goal: Goal, split: str) -> Task:
    """The goal as a task: its id says which goal, so nothing has to be stored beside it."""
    content = json_digest(asdict(goal))[:16]
    return Task(
        f"{split}/{goal.id}", split, goal.category, goal.instruction_text, "", content=content
    )
