"""The catalogue: one read-only object that all episodes share.

Products are read when they are asked for and a few thousand are kept; searches are remembered.
A catalogue is its stock (see `stock`), seen with the prices and goals of one seed.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sdar.environments.webshop.engine.analyzer import analyze
from sdar.environments.webshop.engine.bm25 import POSTING_ARRAYS
from sdar.environments.webshop.engine.goals import Goal, Goals
from sdar.environments.webshop.engine.nouns import Nouns
from sdar.environments.webshop.engine.products import Product
from sdar.environments.webshop.engine.stock import STOCK_ARRAYS, Stock, build_stock, open_stock
from sdar.errors import SdarError

MOST_RESULTS = 50
LONGEST_QUERY = 20_000
"""Characters of a search that are looked at."""
_KEPT_PRODUCTS = 4096
_KEPT_SEARCHES = 4096
_LONGEST_KEPT_SEARCH = 500


class Catalogue:
    """Products, search and goals. Places are positions in catalogue order."""

    def __init__(self, stock: Stock, *, seed: int, human_goals: bool = False) -> None:
        self.seed = seed
        self._stock = stock
        self.product = lru_cache(_KEPT_PRODUCTS)(self._read_product)
        self._search_short = lru_cache(_KEPT_SEARCHES)(self._search)
        counts = stock.human if human_goals else stock.synthetic
        frequency = None if human_goals else stock.frequency
        self.goals = Goals(counts.tolist(), self.product, seed, human_goals, frequency)

    @classmethod
    def from_records(
        cls,
        items: Sequence[Mapping[str, Any]],
        ins: Mapping[str, Any],
        human: Mapping[str, Any] | None = None,
        *,
        seed: int,
        nouns: Nouns | None = None,
        human_goals: bool = False,
    ) -> "Catalogue":
        """From what WebShop's files hold: products, {asin: attributes and instruction}, {asin:
        [human instructions]}.

        The nouns of names are in each product's "nouns", or in `nouns`, or come from spaCy. Raises
        SdarError for a malformed product or none at all.
        """
        stock = build_stock(items, ins, human or {}, nouns)
        return cls(stock, seed=seed, human_goals=human_goals)

    @classmethod
    def open(
        cls, folder: Path, seed: int, *, human_goals: bool = False, cache: Path | None = None
    ) -> "Catalogue":
        """From a folder with items_shuffle*.json and, where there are any, items_ins_v2*.json,
        items_human_ins*.json and nouns*.json.

        With `cache` (a folder) products and index are made once and then mapped from there.
        """
        return cls(open_stock(folder, cache), seed=seed, human_goals=human_goals)

    def __len__(self) -> int:
        return len(self._stock)

    def _read_product(self, place: int) -> Product:
        return self._stock.product(place, self.seed)

    def place(self, asin: str) -> int:
        """Where a product is. Raises SdarError for one that is not in the catalogue."""
        place = self._stock.place(asin)
        if place is None:
            raise SdarError(
                f"product {asin} is not in the catalogue: use the catalogue the goal was made for"
            )
        return place

    def by_asin(self, asin: str) -> Product:
        """The product with this asin. Raises SdarError if there is none."""
        return self.product(self.place(asin))

    def goal(self, goal_id: str) -> Goal:
        """The goal with this id (see `goals.Goal`). Raises SdarError if there is none."""
        asin, _, number = goal_id.rpartition("-")
        place = self._stock.place(asin)
        human = number.startswith("h")
        digits = number[1:] if human else number
        counts = self._stock.human if self.goals.human else self._stock.synthetic
        if (
            place is None
            or human != self.goals.human
            or not digits.isdecimal()
            or int(digits) >= counts[place]
        ):
            raise SdarError(
                f"goal {goal_id!r} is not in the catalogue: run `sdar tasks` again, with the data "
                "it is played on"
            )
        return self.goals.of_product(place, int(digits))

    def search(self, argument: str) -> tuple[int, ...]:
        """The places a lower-case search finds, best first, at most 50.

        A first word <a>, <c> or <q> instead lists, in catalogue order, all products with the
        attribute, category or query that follows; <r> draws 50, the same for the same argument.
        """
        if len(argument) > _LONGEST_KEPT_SEARCH:
            return self._search(argument[:LONGEST_QUERY])
        return self._search_short(argument)

    def _search(self, argument: str) -> tuple[int, ...]:
        first, *rest = argument.split(" ")
        if first == "<r>":
            draw = random.Random(f"webshop results {self.seed} {argument}")
            return tuple(draw.sample(range(len(self)), min(MOST_RESULTS, len(self))))
        if first in ("<a>", "<c>", "<q>"):
            wanted = rest[0] if first == "<c>" and rest else " ".join(rest)
            return tuple(self._listed[first].get(wanted.strip(), ()))
        ranks = self._stock.postings.rank(analyze(argument), MOST_RESULTS)
        return tuple(self._stock.places[ranks].tolist())

    @cached_property
    def _listed(self) -> dict[str, dict[str, list[int]]]:
        listed: dict[str, dict[str, list[int]]] = {
            kind: defaultdict(list) for kind in ("<a>", "<c>", "<q>")
        }
        for place in range(len(self)):
            product = self._read_product(place)
            for attribute in dict.fromkeys(product.attributes):
                listed["<a>"][attribute].append(place)
            listed["<c>"][product.category].append(place)
            listed["<q>"][product.query].append(place)
        return listed

    @property
    def bytes(self) -> int:
        """Memory of texts and arrays, mapped ones included."""
        stock = self._stock
        postings = stock.postings
        arrays = [getattr(stock, name) for name in STOCK_ARRAYS]
        arrays += [getattr(postings, name) for name in POSTING_ARRAYS]
        return len(stock.texts) + sum(int(np.asarray(part).nbytes) for part in arrays)
