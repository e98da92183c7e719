"""A generated shop's catalogue, in the form of WebShop's own files.

Every product type comes in every line and in two finishes, so a title shows at once whether the
line is the one asked for, and nothing else tells: a wrong line, a wrong finish, a missing option
value or a price over the limit is always a near neighbour away. What a line means stands on the
product's features page alone, in a part of it that the search does not index. A catalogue is a
function of (shop, number of products), one category of it of that category alone.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from sdar.environments.webshop.engine.products import Record
from sdar.environments.webshop.world.shop import Shop
from sdar.environments.webshop.world.words import WORDS, CategoryWords, category_words

BLOCK = 12
"""Products of a type: each line in each finish, and two twins."""
FINISHES_OF_A_TYPE = 2
VALUES_OF_A_PRODUCT = 3
CHEAP = (14, 16, 18, 22, 24, 26)
"""Dollars: every goal on a cheap product can pay for any other cheap one."""
DEARER = 70
"""Dollars: a dear product is over every limit that a goal on a cheap one sets."""
RANGE_SHARE = 0.15
"""Of products, whose price is a range (of four dollars)."""


@dataclass(frozen=True)
class Records:
    """A catalogue as WebShop's files hold it; the items bring the nouns of their names."""

    items: list[Record]
    instructions: dict[str, Record]

    def write(self, folder: Path) -> None:
        for name, content in (
            ("items_shuffle.json", self.items),
            ("items_ins_v2.json", self.instructions),
            ("items_human_ins.json", {}),
        ):
            text = json.dumps(content, indent=1, ensure_ascii=False)
            (folder / name).write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True)
class _Listing:
    """One product before it has a number: what its record is written from."""

    category: str
    kind: str
    line: str
    finish: str
    values: tuple[str, ...]
    pricing: str


def make_records(
    shop: Shop, products: int, categories: Sequence[str] = tuple(WORDS), only: str | None = None
) -> Records:
    """`products` products spread evenly over `categories`; of `only` that category, if given.

    A category's products are the same with `only` and without: practice in one category looks like
    the whole shop to whoever shops there.
    """
    counts = {
        category: products // len(categories) + (place < products % len(categories))
        for place, category in enumerate(categories)
    }
    # Numbers are shared out over the whole shop, so that any category may have any.
    numbers = _numbers(products)
    random.Random(f"webshop numbers {shop.seed}").shuffle(numbers)
    listed: list[tuple[str, _Listing]] = []
    start = 0
    for category, count in counts.items():
        if only in (None, category):
            listings = _category(shop, category, count)
            listed += zip(numbers[start : start + count], listings, strict=True)
        start += count
    listed.sort(key=lambda pair: int(pair[0]))
    properties = {
        line: name for category in counts for name, line in shop.lines_of(category).items()
    }
    return Records(
        items=[_item(asin, listing, properties) for asin, listing in listed],
        instructions={asin: _instruction(listing, properties) for asin, listing in listed},
    )


def _numbers(products: int) -> list[str]:
    """Identifiers of digits alone, all of one length: the same in upper and in lower case."""
    first = 10 ** max(2, len(str(products)) - 1)
    if first + products > 10 * first:
        first *= 10
    return [str(first + place) for place in range(products)]


def _category(shop: Shop, category: str, count: int) -> list[_Listing]:
    words = category_words(category)
    rng = random.Random(f"webshop catalogue {shop.seed} {category} {count}")
    types = list(words.types)
    rng.shuffle(types)
    types = types[: max(1, round(count / BLOCK))]
    listings = []
    for place, kind in enumerate(types):
        size = count // len(types) + (place < count % len(types))
        listings += _block(category, words, kind, size, rng)
    return listings


def _block(
    category: str, words: CategoryWords, kind: str, size: int, rng: random.Random
) -> list[_Listing]:
    """All of one type: first each combination of line and finish once, then twins of them.

    All cost about the same, but every second twin much more.
    """
    finishes = rng.sample(words.finishes, FINISHES_OF_A_TYPE)
    combinations = [(line, finish) for line in words.lines for finish in finishes]
    rng.shuffle(combinations)
    dear: dict[tuple[str, str], bool] = {}
    listings = []
    for combination in islice(cycle(combinations), size):
        dear[combination] = not dear.get(combination, True)
        values = rng.sample(words.values, VALUES_OF_A_PRODUCT)
        values.sort(key=words.values.index)
        price = rng.choice(CHEAP) + DEARER * dear[combination]
        ranged = rng.random() < RANGE_SHARE
        pricing = f"${price - 2}${price + 2}" if ranged else f"${price}"
        listings.append(_Listing(category, kind, *combination, tuple(values), pricing))
    return listings


def _item(asin: str, listing: _Listing, properties: dict[str, str]) -> Record:
    words = category_words(listing.category)
    return {
        "asin": asin,
        "name": f"{listing.kind} {listing.line} {listing.finish}",
        "nouns": [listing.kind],
        "full_description": f"a {listing.finish} {listing.kind}",
        # Only the first is indexed.
        "small_description": [
            f"a {listing.finish} {listing.kind}",
            f"line for {properties[listing.line]}: {listing.line}",
        ],
        "pricing": listing.pricing,
        "customization_options": {
            words.option: [{"value": value, "image": None} for value in listing.values]
        },
        "images": [],
        "category": listing.category,
        "query": listing.kind,
        "product_category": f"{words.department} › {listing.kind} › {listing.finish}",
    }


def _instruction(listing: _Listing, properties: dict[str, str]) -> Record:
    wanted = [properties[listing.line], listing.finish]
    return {
        "attributes": wanted,
        "instruction": f"Find me {', '.join(wanted)} {listing.kind}",
        "instruction_attributes": wanted,
    }
