"""Questions about an archive's facts, and what a question asks for, read from its words.

`one_hop`: a fact of a country. `two_hop`: a fact of a country that is only described ("whose code
is pe"); the description must be looked up first. `comparison`: two facts, compared. Train and test
ask about different countries.
"""

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from sdar.environments.searchqa.engine.data import Question
from sdar.environments.searchqa.world.archive import COMPARED, FILED_UNDER, Entry, Size
from sdar.environments.searchqa.world.facts import Fact, by_name
from sdar.errors import SdarError

TEST_SHARE = 0.3
CLOSE = 1.2
"""Numbers of the full world with a smaller ratio are not compared: sources differ by as much."""

_FULL_ASK: Mapping[str, str] = {
    "capital": "What is the capital of {}?",
    "code": "What is the internet country code of {}?",
    "currency": "What is the currency of {}?",
    "demonym": "What is the adjective for the nationality of {}?",
    "crop": "What is the leading agricultural product of {}?",
    "border": "Which country has the longest land border with {}?",
    "buyer": "Which country buys the largest share of the exports of {}?",
    "plane": "What is the registration prefix of civil aircraft of {}?",
    "independence": "What is the year of independence of {}?",
    "peak": "What is the highest point of {}?",
}
_FULL_DESCRIBE: Mapping[str, str] = {
    "capital": "the country whose capital is {}",
    "code": "the country whose internet country code is {}",
    "peak": "the country whose highest point is {}",
    "border": "the country that has the longest land border with {}",
    "buyer": "the country that buys the largest share of the exports of {}",
}
_FULL_COMPARE: Mapping[str, str] = {
    "size": "Which has the larger area, {} or {}?",
    "population": "Which has the larger population, {} or {}?",
}
_SMALL_ASK = {kind: f"What is the {kind} of {{}}?" for kind in FILED_UNDER if kind not in COMPARED}
_SMALL_DESCRIBE = {kind: f"the country whose {kind} is {{}}" for kind in ("capital", "code")}
_SMALL_COMPARE = {kind: f"Which has the larger {kind}, {{}} or {{}}?" for kind in COMPARED}

ASK = {"small": _SMALL_ASK, "full": _FULL_ASK}
DESCRIBE = {"small": _SMALL_DESCRIBE, "full": _FULL_DESCRIBE}
COMPARE = {"small": _SMALL_COMPARE, "full": _FULL_COMPARE}
FORWARD = ("border", "buyer")
"""Descriptions by a fact of another country; the rest are by a fact of the country itself."""


@dataclass(frozen=True)
class Asked:
    """What a question asks: the `kind` of fact of `subjects` (two are compared).

    Where `via` is set, the only subject is the key of a description: the value of a fact of the
    country asked about (its code), or for `FORWARD` kinds another country's name.
    """

    size: Size
    kind: str
    subjects: tuple[str, ...]
    via: str | None = None

    @property
    def task_type(self) -> str:
        if len(self.subjects) == 2:
            return "comparison"
        return "one_hop" if self.via is None else "two_hop"

    @property
    def data_source(self) -> str:
        return "_".join((self.task_type, *filter(None, (self.via, self.kind))))

    @property
    def text(self) -> str:
        if len(self.subjects) == 2:
            return COMPARE[self.size][self.kind].format(*self.subjects)
        of = self.subjects[0]
        if self.via is not None:
            of = DESCRIBE[self.size][self.via].format(of)
        return ASK[self.size][self.kind].format(of)


def parse_question(text: str) -> Asked:
    """What a generated question asks. Raises `SdarError` for any other question."""
    for size, kind, asks in _patterns("ask"):
        match = asks.fullmatch(text)
        if match is None:
            continue
        for other, via, describes in _patterns("describe"):
            described = describes.fullmatch(match.group(1))
            if described is not None and other == size:
                return Asked(size, kind, (described.group(1),), via)
        return Asked(size, kind, (match.group(1),))
    for size, kind, compares in _patterns("compare"):
        match = compares.fullmatch(text)
        if match is not None:
            return Asked(size, kind, (match.group(1), match.group(2)))
    raise SdarError(
        f"the question '{text}' follows none of the generated forms: the scripted expert answers "
        "generated questions only"
    )


@cache
def _patterns(use: str) -> tuple[tuple[Size, str, re.Pattern[str]], ...]:
    # The small world's templates come first: its names are lower-case, which tells them apart.
    forms = {"ask": ASK, "describe": DESCRIBE, "compare": COMPARE}[use]
    names: dict[Size, str] = {
        "small": r"([a-z]+|the country whose [a-z]+ is [a-z]+)",
        "full": r"(\S.*)",
    }
    return tuple(
        (size, kind, re.compile(re.escape(template).replace(r"\{\}", name)))
        for size, name in names.items()
        for kind, template in forms[size].items()
    )


def candidates(task_type: str, size: Size, told: Sequence[Entry]) -> Iterator[tuple[Asked, Fact]]:
    """Every question of a type about these countries, with its answer."""
    if task_type == "comparison":
        yield from _comparisons(size, told)
    elif task_type == "two_hop":
        yield from _two_hops(size, told)
    else:
        for entry in told:
            for kind in ASK[size]:
                if kind in entry.facts:
                    yield Asked(size, kind, (entry.name,)), _answer(kind, entry.facts[kind])


def _two_hops(size: Size, told: Sequence[Entry]) -> Iterator[tuple[Asked, Fact]]:
    by_entry = {entry.name: entry for entry in told}
    for via in DESCRIBE[size]:
        # What describes two countries describes none.
        keys = Counter(entry.facts[via].value for entry in told if via in entry.facts)
        for entry in told:
            if via not in entry.facts:
                continue
            value = entry.facts[via].value
            if via in FORWARD:
                meant = by_name().get(value.lower())
                about, key = by_entry.get(meant.name) if meant else None, entry.name
            else:
                about, key = (entry if keys[value] == 1 else None), value
            if about is None:
                continue
            for kind in ASK[size]:
                if kind != via and kind in about.facts:
                    yield Asked(size, kind, (key,), via), _answer(kind, about.facts[kind])


def _answer(kind: str, fact: Fact) -> Fact:
    """The fact, and where it is a country, all of its names."""
    meant = by_name().get(fact.value.lower()) if kind in FORWARD else None
    return Fact(fact.value, (*fact.aliases, meant.name, *meant.aliases)) if meant else fact


def _comparisons(size: Size, told: Sequence[Entry]) -> Iterator[tuple[Asked, Fact]]:
    for kind in COMPARED:
        having = [entry for entry in told if kind in entry.facts]
        for first in having:
            for second in having:
                numbers = (first.facts[kind].number, second.facts[kind].number)
                if first is second or not _differ(size, *numbers):
                    continue
                larger = first if numbers[0] > numbers[1] else second
                answer = Fact(larger.name, larger.aliases)
                yield Asked(size, kind, (first.name, second.name)), answer


def _differ(size: Size, one: float, other: float) -> bool:
    least, most = sorted((one, other))
    return least > 0 and (most > least if size == "small" else most > CLOSE * least)


def split_entries(told: Sequence[Entry], seed: int) -> dict[str, list[Entry]]:
    """Which countries each split asks about."""
    shuffled = sorted(told, key=lambda entry: entry.name)
    random.Random(f"split/{seed}").shuffle(shuffled)
    cut = round(TEST_SHARE * len(shuffled))
    return {"train": shuffled[cut:], "test": shuffled[:cut]}


def make_questions(
    size: Size, told: Sequence[Entry], split: str, count: int, task_types: Sequence[str], seed: int
) -> list[Question]:
    """`count` different questions of one split; types take turns, kinds of facts too.

    Raises `SdarError` when there are not so many.
    """
    asked: dict[str, list[tuple[Asked, Fact]]] = {}
    for task_type in task_types:
        rng = random.Random(f"questions/{seed}/{split}/{task_type}")
        possible = list(candidates(task_type, size, split_entries(told, seed)[split]))
        rng.shuffle(possible)
        asked[task_type] = _spread(possible)
    questions = []
    for number in range(count):
        # Each round of types starts one later: "every second" is then not "every second type".
        round_ = number // len(task_types)
        task_type = task_types[(number + round_) % len(task_types)]
        if round_ >= len(asked[task_type]):
            raise SdarError(
                f"environment.questions.{split}: {count} questions are more than there are (only "
                f"{len(asked[task_type])} of type {task_type}): lower it"
            )
        what, answer = asked[task_type][round_]
        questions.append(
            Question(
                id=f"{what.data_source}/{split}_{number}",
                question=what.text,
                targets=answer.targets,
                data_source=what.data_source,
                metadata={"split": split, "task_type": task_type},
            )
        )
    return questions


def _spread(possible: Sequence[tuple[Asked, Fact]]) -> list[tuple[Asked, Fact]]:
    """Kinds of questions in turn, so that none is rare because it has few candidates."""
    kinds: dict[str, list[tuple[Asked, Fact]]] = {}
    for what, answer in possible:
        kinds.setdefault(what.data_source, []).append((what, answer))
    ranked = [
        (place, kind, pair) for kind, pairs in kinds.items() for place, pair in enumerate(pairs)
    ]
    return [pair for _, _, pair in sorted(ranked, key=lambda item: item[:2])]
