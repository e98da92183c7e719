"""An archive: the countries it tells of, and the words it files each kind of fact under.

In the small world (for a tiny policy) every name and value is one word, every passage one short
sentence, and an archive files "capital" under a word of its own, such as "seat": a search with the
everyday word finds other facts of the country. Those words are the privileged knowledge of the
experiment: the skill tells them, the student's prompt does not. Archives of other seeds have other
words. In the full world passages are the Factbook's own and knowledge is how it titles its fields.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

from sdar.environments.searchqa.retrieval.bm25 import STOP_WORDS
from sdar.environments.searchqa.world.facts import (
    SOURCES,
    Country,
    Fact,
    countries,
    without_accents,
)
from sdar.errors import SdarError

Size = Literal["small", "full"]

# The words an archive may file a kind of fact under: never the everyday word of a question.
FILED_UNDER: Mapping[str, tuple[str, ...]] = {
    kind: tuple(words.split())
    for kind, words in {
        "capital": "seat hub center court citadel base throne anchor core helm",
        "code": "domain suffix handle address label ending tag badge token stamp",
        "currency": "money coin cash tender purse mint wallet till bill funds",
        "demonym": "folk citizen native national resident local dweller tribe kin settler",
        "language": "tongue speech idiom dialect talk voice lingo jargon script vernacular",
        "size": "extent surface space ground spread acreage span expanse land footprint",
        "population": "census count heads tally souls headcount total number roll muster",
    }.items()
}
# What a country's pages also tell: it comes up when a search names the country alone.
FURTHER = ("region", "crop", "color")
KINDS = (*FILED_UNDER, *FURTHER)
COMPARED = ("size", "population")
SMALL_COUNTRIES = 100
BANDS = 6
"""Sizes and populations of the small world are told in bands of equally many countries."""
PRACTICE_COUNTRIES = 24

# What the full world calls a kind of fact in a question or a thought.
_LABELS = """
capital: capital, code: internet code, currency: currency, demonym: nationality, crop: leading crop,
border: longest border, buyer: largest buyer, plane: aircraft prefix, size: area,
population: population, independence: independence, peak: highest point
"""
LABELS: Mapping[str, str] = dict(told.split(": ") for told in " ".join(_LABELS.split()).split(", "))

FULL_WORDS: Mapping[str, str] = {
    kind: " ".join(filter(None, (SOURCES[kind].field, SOURCES[kind].line))) for kind in LABELS
}
"""The field and the line that tell a kind of fact in the full world."""

_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True)
class Entry:
    """A country as an archive tells of it: facts by kind."""

    name: str
    facts: Mapping[str, Fact]
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Archive:
    """`words[kind]` is what the archive files that kind under. See `base.Knowledge`."""

    seed: int
    size: Size
    words: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def draw(cls, seed: int, size: Size = "small") -> "Archive":
        """The archive of a seed; the full world has one, whatever the seed."""
        if size == "full":
            return cls(seed, size, FULL_WORDS)
        draw = random.Random(f"archive/{seed}")
        return cls(seed, size, {kind: draw.choice(words) for kind, words in FILED_UNDER.items()})

    def habits_text(self, task_type: str) -> str:
        """The line of a skill that tells the words for what this type of question asks."""
        compared = task_type == "comparison"
        told = [
            f"{label(kind, self.size)}: {word}"
            for kind, word in self.words.items()
            if (kind in COMPARED) == compared
        ]
        return f"Facts are filed as {'; '.join(told)}."

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Archive":
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            archive = cls.draw(stored["seed"], stored["size"])
            return cls(archive.seed, archive.size, {k: stored["words"][k] for k in archive.words})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SdarError(
                f"{path} is not a readable archive ({error!r}): delete the tasks folder and run "
                "`sdar tasks` again"
            ) from error


def label(kind: str, size: Size) -> str:
    """What questions and thoughts call a kind of fact."""
    return kind if size == "small" else LABELS[kind]


@cache
def entries(size: Size) -> tuple[Entry, ...]:
    """The real facts of a world, by name."""
    if size == "full":
        return tuple(Entry(c.name, c.facts, c.aliases) for c in countries())
    return _small_entries()


def small_names() -> frozenset[str]:
    """Every word of the small world that carries a fact."""
    told = entries("small")
    values = (fact.value for entry in told for fact in entry.facts.values())
    words = (word for words in FILED_UNDER.values() for word in words)
    return frozenset((*KINDS, *(entry.name for entry in told), *values, *words))


@lru_cache(maxsize=256)
def imagined_entries(seed: int) -> tuple[Entry, ...]:
    """Some of the small world's countries with each other's facts.

    The warm start is set among these: what a policy remembers of one archive is wrong in the next,
    so that it learns to read.
    """
    real = entries("small")
    draw = random.Random(f"imagined/{seed}")
    names = draw.sample([entry.name for entry in real], PRACTICE_COUNTRIES)
    columns = {}
    for kind, values in _small_values().items():
        unique = len(values) >= len(names)
        columns[kind] = (
            draw.sample(values, len(names)) if unique else draw.choices(values, k=len(names))
        )
    return tuple(
        Entry(name, {kind: column[number] for kind, column in columns.items()})
        for number, name in enumerate(names)
    )


@cache
def _small_values() -> dict[str, list[Fact]]:
    """What the small world's facts may be, by kind."""
    return {
        kind: sorted({entry.facts[kind] for entry in entries("small")}, key=lambda f: f.value)
        for kind in KINDS
    }


def _small_entries() -> tuple[Entry, ...]:
    """The most populous countries of which everything is one word."""
    told = {}
    for country in countries():
        facts = _small_facts(country)
        if facts is not None:
            told[country.name] = facts
    # A word must mean one thing: it would lead a search elsewhere.
    meant = Counter(
        word
        for name, facts in told.items()
        for word in {name.lower(), facts["capital"].value, facts["code"].value}
    )
    by_population = sorted(told, key=lambda name: -told[name]["population"].number)
    chosen = [
        name
        for name in by_population
        if all(
            meant[word] == 1
            for word in (name.lower(), told[name]["capital"].value, told[name]["code"].value)
        )
    ][:SMALL_COUNTRIES]
    bands = {kind: _bands({name: told[name][kind].number for name in chosen}) for kind in COMPARED}
    return tuple(
        Entry(name.lower(), {**told[name], **{kind: bands[kind][name] for kind in COMPARED}})
        for name in sorted(chosen)
    )


def _small_facts(country: Country) -> dict[str, Fact] | None:
    """The country's facts, each one word; None where one is missing, or is more than a word."""
    facts = {}
    for kind in KINDS:
        fact = country.facts.get(kind)
        if fact is None:
            return None
        if kind in COMPARED:
            facts[kind] = fact
            continue
        value = next((a for a in fact.aliases if a.isupper()), "") if kind == "currency" else ""
        value = without_accents(value or fact.value).lower().lstrip(".")
        if not _WORD.fullmatch(value) or value in STOP_WORDS or value == country.name.lower():
            return None
        facts[kind] = Fact(value)
    return facts if _WORD.fullmatch(country.name.lower()) else None


def _bands(numbers: Mapping[str, float]) -> dict[str, Fact]:
    order = sorted(numbers, key=lambda name: (numbers[name], name))
    places = {name: 1 + BANDS * rank // len(order) for rank, name in enumerate(order)}
    return {name: Fact(f"band{place}", number=place) for name, place in places.items()}
