"""Passages of an archive, one a field of a country, in Search-R1's form; and reading them back.

Small world: `"peru"`, then `Record of peru, seat lima.`, where a value stands next to its word, so
that a small policy can look it up. Full world: `"Peru: Capital"`, then, as in
wiki-18's passages, the title once more and about a hundred words, which are the Factbook's.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sdar.environments.searchqa.world.archive import (
    FILED_UNDER,
    FULL_WORDS,
    FURTHER,
    Archive,
    Entry,
)
from sdar.environments.searchqa.world.facts import SOURCES, Fact, countries

PASSAGE_WORDS = 100

_KIND_OF_WORD = {
    **{word: kind for kind, words in FILED_UNDER.items() for word in words},
    **{kind: kind for kind in FURTHER},
}
_KIND_OF_FIELD = {SOURCES[kind].field: kind for kind in FULL_WORDS}
_SENTENCE = re.compile(r"Record of ([a-z]+), ([a-z]+) ([a-z]+)(\d*)\.")
_DOCUMENT = re.compile(r'^Doc \d+: "(.*)"\n(.*)$', re.MULTILINE)


@dataclass(frozen=True)
class Statement:
    """What a passage says: the `kind` of fact, filed under `word`, of `subject`."""

    kind: str
    word: str
    subject: str
    fact: Fact


def make_passages(archive: Archive, told: Sequence[Entry]) -> list[tuple[str, str]]:
    """(id, contents) of every passage, in the order of ids.

    In the small world a country's passages are in random order: which of them a search for the
    country alone brings up says nothing.
    """
    contents = _full_contents() if archive.size == "full" else _small_contents(archive, told)
    width = len(str(len(contents)))
    return [(f"{number:0{width}}", text) for number, text in enumerate(contents)]


def _small_contents(archive: Archive, told: Sequence[Entry]) -> list[str]:
    contents = [
        f'"{entry.name}"\nRecord of {entry.name}, {archive.words.get(kind, kind)} {fact.value}.'
        for entry in told
        for kind, fact in entry.facts.items()
    ]
    random.Random(f"order/{archive.seed}").shuffle(contents)
    return contents


def _full_contents() -> list[str]:
    contents = []
    for country in countries():
        for field in country.fields:
            words = field.text.split(" ")
            text = " ".join(words[:PASSAGE_WORDS]) + (" ..." if len(words) > PASSAGE_WORDS else "")
            contents.append(f'"{country.name}: {field.name}"\n{country.name}: {field.name}. {text}')
    # Some fields stand in two sections of a page.
    return list(dict.fromkeys(contents))


def read_results(text: str) -> list[Statement]:
    """The facts stated in the results of a search, in their order."""
    statements = (_read(title, body) for title, body in _DOCUMENT.findall(text))
    return [statement for statement in statements if statement is not None]


def _read(title: str, body: str) -> Statement | None:
    sentence = _SENTENCE.fullmatch(body)
    if sentence is not None:
        subject, word, value, band = sentence.groups()
        kind = _KIND_OF_WORD.get(word)
        told = Fact(value + band, number=float(band or 0))
        return None if kind is None else Statement(kind, word, subject, told)
    subject, _, field = title.partition(": ")
    kind = _KIND_OF_FIELD.get(field)
    if kind is None:
        return None
    fact = SOURCES[kind].read(_line(body.removeprefix(f"{title}. "), SOURCES[kind].line))
    return None if fact is None else Statement(kind, FULL_WORDS[kind], subject, fact)


def _line(body: str, name: str | None) -> str:
    """One line of a field, of which the passage has all in one text."""
    if name is None:
        return body
    match = re.search(rf"(?:^|; ){name}: (.*?)(?:; [A-Za-z][\w ()/-]*: |$)", body)
    return match.group(1) if match else body
