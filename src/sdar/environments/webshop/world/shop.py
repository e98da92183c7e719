"""A shop and its habits: under which line it lists each property that customers ask for.

The habits are the privileged knowledge of a generated WebShop: titles name the line, goals name
the property, the skill tells which belongs to which, and the student's prompt does not. A shop is a
function of its seed; different seeds give independent shops.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sdar.environments.webshop.world.words import WORDS, category_words
from sdar.errors import SdarError


@dataclass(frozen=True)
class Shop:
    """`lines[category][property]` is the line that the shop lists the property under."""

    seed: int
    lines: Mapping[str, Mapping[str, str]]

    @classmethod
    def draw(cls, seed: int) -> "Shop":
        lines: dict[str, dict[str, str]] = {}
        for category, words in WORDS.items():
            names = list(words.lines)
            random.Random(f"webshop shop {seed} {category}").shuffle(names)
            lines[category] = dict(zip(words.properties, names, strict=True))
        return cls(seed, lines)

    def lines_of(self, category: str) -> dict[str, str]:
        """Property -> line, for one category, in the fixed order of the properties."""
        words = category_words(category)
        return {name: self.lines[category][name] for name in words.properties}

    def habits_text(self, task_type: str) -> str:
        """The sentences of a skill that tell the shop's lines ("... quiet: aero; fast: nova.")."""
        told = (f"{name}: {line}" for name, line in self.lines_of(task_type).items())
        return f"Titles name a line instead of such a property. Lines here are {'; '.join(told)}."

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Shop":
        """Raises SdarError when the file is unreadable or lacks a property."""
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            shop = cls(fields["seed"], fields["lines"])
            for category in WORDS:
                shop.lines_of(category)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SdarError(
                f"{path} is not a readable shop ({error!r}): delete the tasks folder and run "
                "`sdar tasks` again"
            ) from error
        return shop
