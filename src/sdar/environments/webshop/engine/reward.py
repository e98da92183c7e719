"""The reward of a purchase, with its parts (WebShop, arXiv 2207.01206, as its code has it).

reward = r_type (attributes met + options met + price ok) / (attributes + options + 1)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from rapidfuzz import fuzz, utils

from sdar.environments.webshop.engine.colours import COLOURS, first_colour
from sdar.environments.webshop.engine.goals import Goal
from sdar.environments.webshop.engine.products import Product

SIMILAR = 85
"""Texts whose similarity, 0-100, is above this are the same."""
_NO_NOUNS = 0.2
_ASCII_ONLY = dict.fromkeys(range(128, 256))
_COLOURS = frozenset(COLOURS)


@dataclass(frozen=True, slots=True)
class Reward:
    """All between 0 and 1. `r_option` is None where the goal asks for no options."""

    reward: float
    r_type: float
    r_att: float
    r_option: float | None
    r_price: bool
    title_score: float
    query_match: bool
    category_match: bool


def purchase_reward(
    product: Product,
    goal: Goal,
    goal_nouns: Sequence[str],
    options: Mapping[str, str],
    price: float,
) -> Reward:
    """What buying `product` with the chosen `options` {name: value} for `price` earns.

    `goal_nouns` are the nouns of the goal's name, in order, with duplicates.
    """
    query_match = product.query == goal.query
    category_match = len(_parts(product.product_category) & _parts(goal.product_category)) >= 2
    title_score = shared_nouns(product.nouns, goal_nouns)
    r_type = type_reward(query_match or category_match, title_score)

    attributes = sum(has_attribute(product, wanted) for wanted in goal.attributes)
    chosen = [first_colour(value) for value in options.values()]
    wishes = _wishes(goal)
    met = sum(any(similar(value, wish) for value in chosen) for wish in wishes)
    price_ok = price <= goal.price_upper
    total = (attributes + met + price_ok) / (len(goal.attributes) + len(wishes) + 1)
    return Reward(
        reward=total * r_type,
        r_type=r_type,
        r_att=attributes / len(goal.attributes) if goal.attributes else 1.0,
        r_option=met / len(wishes) if wishes else None,
        r_price=price_ok,
        title_score=title_score,
        query_match=query_match,
        category_match=category_match,
    )


def shared_nouns(product_nouns: Sequence[str], goal_nouns: Sequence[str]) -> float:
    """Distinct nouns of both names, over the goal's nouns with duplicates."""
    if not goal_nouns:
        return _NO_NOUNS
    return len(set(product_nouns) & set(goal_nouns)) / len(goal_nouns)


def type_reward(same_kind: bool, title_score: float) -> float:
    """1 for a product of the goal's kind or with a like name; less and less for unlike names."""
    if title_score == 0:
        return 0.0
    if title_score < 0.1:
        return 0.1
    return 1.0 if same_kind or title_score > 0.2 else 0.5


def has_attribute(product: Product, wanted: str) -> bool:
    """The product is listed with it, or its texts say it."""
    return (
        any(similar(attribute, wanted) for attribute in product.attributes)
        or wanted in product.name.lower()
        or wanted in " ".join(product.bullets).lower()
        or wanted in product.description.lower()
    )


@lru_cache(maxsize=1 << 14)
def similar(one: str, other: str) -> bool:
    """The words of the one are nearly those of the other, or among them."""
    score = fuzz.token_set_ratio(_plain(one), _plain(other))
    return round(score) > SIMILAR


def _plain(text: str) -> str:
    """Lower-case ASCII words (as thefuzz prepares texts; characters above 255 stay)."""
    return utils.default_process(text.translate(_ASCII_ONLY))


def _wishes(goal: Goal) -> list[str]:
    """The goal's options as texts to compare.

    A synthetic goal's are pairs of name and value, and the pair as a whole is compared: only where
    the name or the value is exactly a colour is it reduced to one.
    """
    if not isinstance(goal.goal_options, Mapping):
        return [first_colour(value) for value in goal.goal_options]
    wishes = []
    for pair in goal.goal_options.items():
        exact = _COLOURS.intersection(pair)
        wishes.append(min(exact, key=COLOURS.index) if exact else str(pair))
    return wishes


@lru_cache(maxsize=1 << 12)
def _parts(product_category: str) -> frozenset[str]:
    return frozenset(part.strip() for part in product_category.split("\u203a"))
