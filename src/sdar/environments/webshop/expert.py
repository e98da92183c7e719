"""The honest shopper: it acts on what the pages have shown and on the lines it was told, if any.

Its thoughts look a line up in the very words of the skill ("try quiet: aero"), and name what is
needed before they say what is here, so that a small policy learns to look before it clicks. Without
the hint it tries a line, and reads of the first product it opens what the line really means; if it
was the wrong one, it takes another of the same results. What it does can be told from the last two
turns. It plays on from any state, whoever brought it there.
"""

import random
from collections.abc import Mapping, Sequence

from sdar.environments.base import Observation, Task
from sdar.environments.webshop.observed import (
    Row,
    SeenPage,
    Wanted,
    affordable,
    parse_goal,
    price_limit,
    read_page,
)
from sdar.environments.webshop.world.shop import Shop
from sdar.environments.webshop.world.words import category_words

Decision = tuple[str, str]
"""Thought and action."""


def make_expert(
    task: Task, first: Observation, knowledge: object, seed: int = 0
) -> "LineExpert | PlainExpert":
    """The shopper for a task: one that knows of lines, or a plain one for real goals."""
    wanted = parse_goal(task.instruction)
    if wanted is None:
        return PlainExpert(task.instruction, first)
    told = knowledge.lines_of(wanted.category) if isinstance(knowledge, Shop) else None
    return LineExpert(wanted, first, told, seed)


class LineExpert:
    """Beside one episode in a generated shop. `told` maps property to line."""

    def __init__(
        self, wanted: Wanted, first: Observation, told: Mapping[str, str] | None, seed: int
    ) -> None:
        self._wanted = wanted
        self._told = told
        lines = list(category_words(wanted.category).lines)
        random.Random(f"webshop guess {seed} {wanted}").shuffle(lines)
        self._guesses = lines
        self._meaning: dict[str, str] = {}
        """Line -> property, as features pages say."""
        self._lacking: set[str] = set()
        """Products opened that do not come in the wanted value."""
        self._query = ""
        self._opened: list[str] = []
        self._chosen = ""
        self._just_read = ""
        self._page = read_page(first)

    def observe(self, action: str, observation: Observation) -> None:
        """Take in one turn: the action as sent, and the answer."""
        before, self._page = self._page, read_page(observation)
        name, _, argument = action.strip().rstrip("]").partition("[")
        page = self._page
        self._just_read = ""
        if name == "search" and page.kind == "results":
            self._query = argument
            self._adopt([word for word in argument.split() if word in self._guesses])
        if name == "click" and before.kind == "results" and page.kind == "item":
            self._opened.append(argument)
        if page.kind in ("index", "results"):
            self._chosen = ""
        if name == "click" and before.kind == "item" and argument in before.values:
            self._chosen = argument
        if page.kind == "item":
            self._look_at(page)
        for text in page.texts:
            meaning, _, line = text.removeprefix("line for ").partition(": ")
            if line in self._guesses:
                self._meaning[line] = meaning
                self._just_read = line

    def act(self) -> Decision:
        """(thought, action) here; the action is one that the page offers."""
        decide = {
            "index": self._search,
            "results": self._choose,
            "item": self._inspect,
            "text": self._leave_text,
            "done": self._search,
        }
        return _on_offer(decide[self._page.kind](), self._page)

    @property
    def _lines(self) -> list[str]:
        """The lines that may be the wanted one, the best guess first."""
        wanted = self._wanted.property
        if self._told is not None:
            return [self._told[wanted]]
        sure = [line for line, meaning in self._meaning.items() if meaning == wanted]
        return sure or [line for line in self._guesses if line not in self._meaning]

    def _adopt(self, lines: Sequence[str]) -> None:
        """Whoever acts has made a guess: go on with that one."""
        for line in lines[:1]:
            self._guesses.remove(line)
            self._guesses.insert(0, line)

    def _look_at(self, page: SeenPage) -> None:
        kind, line, finish = _words(page.title)
        if self._wanted.value not in page.values:
            self._lacking.update(self._opened[-1:])
        elif (kind, finish) == (self._wanted.kind, self._wanted.finish) and line in self._lines:
            self._adopt([line])

    def _search(self) -> Decision:
        wanted, line = self._wanted, self._lines[0]
        query = f"{wanted.kind} {line} {wanted.finish} {wanted.value}"
        return f"try {wanted.property}: {line}", f"search[{query}]"

    def _choose(self) -> Decision:
        wanted = self._wanted
        for line in self._lines:
            need = f"need {line} {wanted.finish}{_under(wanted.limit)}"
            if line not in self._query.split():
                need = f"try {wanted.property}: {line}; {need}"
            for row in self._page.rows:
                if row.asin.lower() not in self._lacking and self._fits(row, line):
                    return f"{need}; here {row.price}", f"click[{row.asin.lower()}]"
        need = f"need {self._lines[0]} {wanted.finish}{_under(wanted.limit)}"
        searched = {wanted.kind, self._lines[0], wanted.finish} <= set(self._query.split())
        if searched and self._page.rows:
            return f"{need}; none here", "click[next >]"
        return f"{need}; search", "click[back to search]"

    def _fits(self, row: Row, line: str) -> bool:
        wanted = (self._wanted.kind, line, self._wanted.finish)
        return _words(row.title) == wanted and self._pays(row.price)

    def _pays(self, price: str) -> bool:
        return not self._wanted.limit or affordable(price, float(self._wanted.limit))

    def _inspect(self) -> Decision:
        wanted, page, lines = self._wanted, self._page, self._lines
        kind, line, finish = _words(page.title)
        if line in self._meaning and line not in lines:
            return f"read {self._meaning[line]}: {line}; need {wanted.property}", "click[< prev]"
        if line not in lines or (kind, finish) != (wanted.kind, wanted.finish):
            need = f"need {wanted.kind} {lines[0]} {wanted.finish}"
            return f"{need}; here {page.title}", "click[< prev]"
        if not self._pays(page.price):
            return f"need{_under(wanted.limit)}; here {page.price}", "click[< prev]"
        need = f"need {wanted.option}: {wanted.value}"
        if wanted.value not in page.values:
            return f"{need}; none here", "click[< prev]"
        if wanted.value == self._chosen:
            return f"have {wanted.option}: {wanted.value}; buy", "click[buy now]"
        unsure = self._told is None and line not in self._meaning
        if unsure and len(set(self._opened)) == 1:
            return f"is {wanted.property}: {line}; read", "click[features]"
        return f"{need}; here", f"click[{wanted.value}]"

    def _leave_text(self) -> Decision:
        line, wanted = self._just_read, self._wanted.property
        if not line:
            return "nothing to read", "click[< prev]"
        verdict = "good" if line in self._lines else f"need {wanted}"
        return f"read {self._meaning[line]}: {line}; {verdict}", "click[< prev]"


class PlainExpert:
    """Any goal: search for its words, open the first product it can pay for, choose what it names.

    A simple baseline, not a solution: real shops list things in their own ways.
    """

    def __init__(self, instruction: str, first: Observation) -> None:
        self._query, self._limit = price_limit(instruction.strip())
        self._query = " ".join(self._query.replace("[", " ").replace("]", " ").split())
        self._page = read_page(first)
        self._chosen: list[str] = []

    def observe(self, action: str, observation: Observation) -> None:
        before, self._page = self._page, read_page(observation)
        if self._page.kind in ("index", "results"):
            self._chosen.clear()
        clicked = action.strip().removeprefix("click[").removesuffix("]")
        if before.kind == "item" and clicked in before.values:
            self._chosen.append(clicked)

    def act(self) -> Decision:
        return _on_offer(self._decide(), self._page)

    def _decide(self) -> Decision:
        page = self._page
        if page.kind == "results":
            for row in page.rows:
                if affordable(row.price, self._limit):
                    return f"{row.title} costs {row.price}", f"click[{row.asin.lower()}]"
            return "nothing here is cheap enough", "click[back to search]"
        if page.kind == "item":
            named = [v for v in page.values if f": {v}" in self._query and v not in self._chosen]
            if named:
                return f"choose {named[0]}", f"click[{named[0]}]"
            return "all that is named is chosen", "click[buy now]"
        if page.kind == "text":
            return "back to the product", "click[< prev]"
        return "search for what is asked", f"search[{self._query or 'product'}]"


def _on_offer(decision: Decision, page: SeenPage) -> Decision:
    """The decision, or where a real page does not offer that, a way back."""
    thought, action = decision
    searching = any(offered.startswith("search[") for offered in page.offered)
    if action in page.offered or not page.offered or (searching and action.startswith("search[")):
        return decision
    ways = ("click[back to search]", "click[< prev]", *page.offered)
    return thought, next(way for way in ways if way in page.offered)


def _words(title: str) -> tuple[str, str, str]:
    """Type, line and finish of a generated title; of any other, whatever stands there."""
    kind, line, finish = [*title.split(" "), "", "", ""][:3]
    return kind, line, finish


def _under(limit: str) -> str:
    return f" under ${limit}" if limit else ""
