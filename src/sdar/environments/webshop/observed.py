"""What a shopper reads off a page's text, and what a generated goal asks for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sdar.environments.base import Observation
from sdar.environments.webshop.world.words import category_of_type, category_words

PageKind = Literal["index", "results", "item", "text", "done"]
_BUTTONS = ("back to search", "< prev", "next >", "description", "features", "reviews", "buy now")
_MARKERS = re.compile(r"\[(?:clicked )?button_?\]")
_PRICE = re.compile(r"\$([\d.]+)")
_LIMIT = re.compile(r"(?:,? and )?price lower than ([\d.]+) dollars")
_GOAL = re.compile(
    r"Find me (?P<property>\w+), (?P<finish>\w+) (?P<kind>\w+) "
    r"with (?P<option>\w+): (?P<value>\w+)(?:, and price lower than (?P<limit>[\d.]+) dollars)?"
)


@dataclass(frozen=True)
class Wanted:
    """A generated goal, word by word. `limit` is as the instruction writes it, "" without one."""

    category: str
    kind: str
    property: str
    finish: str
    option: str
    value: str
    limit: str


@dataclass(frozen=True)
class Row:
    """One product of a results page; `price` is its tag's text."""

    asin: str
    title: str
    price: str


@dataclass(frozen=True)
class SeenPage:
    """`rows` on results pages; `title`, `price` and `values` on item pages; else `texts`."""

    kind: PageKind
    rows: tuple[Row, ...] = ()
    title: str = ""
    price: str = ""
    values: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    offered: tuple[str, ...] = ()
    """The actions that the page offers."""


def parse_goal(instruction: str) -> Wanted | None:
    """None for an instruction that no generated shop would give."""
    match = _GOAL.fullmatch(instruction.strip())
    category = category_of_type(match["kind"]) if match else None
    if match is None or category is None:
        return None
    words = category_words(category)
    if match["property"] not in words.properties or match["finish"] not in words.finishes:
        return None
    return Wanted(category, **{**match.groupdict(), "limit": match["limit"] or ""})


def price_limit(instruction: str) -> tuple[str, float]:
    """What an instruction says besides its limit, and the limit in dollars (infinite: none)."""
    match = _LIMIT.search(instruction)
    rest = _LIMIT.sub("", instruction).strip()
    return rest, float(match[1]) if match else float("inf")


def affordable(price: str, limit: float) -> bool:
    """All of a price tag's prices keep the limit."""
    return all(float(amount) <= limit for amount in _PRICE.findall(price))


def read_page(observation: Observation) -> SeenPage:
    """The page that an observation shows, in either text mode."""
    pieces, offered = _pieces(observation.text), observation.admissible_actions
    if pieces[0].startswith("Thank you"):
        return SeenPage("done", offered=offered)
    if "click[back to search]" not in offered or "Back to Search" not in pieces:
        return SeenPage("index", offered=offered)
    body = pieces[pieces.index("Back to Search") + 1 :]
    if "click[next >]" in offered:
        cells = body[body.index("Next >") + 1 :] if "Next >" in body else []
        return SeenPage("results", rows=_rows(cells, offered), offered=offered)
    if "click[buy now]" not in offered:
        return SeenPage("text", texts=tuple(body[1:]), offered=offered)
    prices = [i for i, piece in enumerate(body) if piece.startswith("Price: ")]
    return SeenPage(
        "item",
        title=body[prices[-1] - 1] if prices else "",
        price=body[prices[-1]].removeprefix("Price: ") if prices else "",
        values=_values(offered),
        offered=offered,
    )


def _rows(cells: Sequence[str], offered: Sequence[str]) -> tuple[Row, ...]:
    """The products of a results page. Each begins with its asin and ends with its price; a real
    one may have no title."""
    starts: list[int] = []
    place = 0
    lowered = [cell.lower() for cell in cells]
    for asin in _values(offered):
        if asin in lowered[place:]:
            starts.append(lowered.index(asin, place))
            place = starts[-1] + 1
    ends = [*starts[1:], len(cells)]
    return tuple(
        Row(cells[start], " ".join(cells[start + 1 : end - 1]), cells[end - 1])
        for start, end in zip(starts, ends, strict=False)  # without any, there is one end too many
    )


def _pieces(text: str) -> list[str]:
    if "[button]" in text:
        lines = (_MARKERS.sub("", line).strip() for line in text.splitlines())
        return [line for line in lines if line]
    return text.split(" [SEP] ")


def _values(admissible: Sequence[str]) -> tuple[str, ...]:
    """The option values that can be clicked."""
    clicks = (action[6:-1] for action in admissible if action.startswith("click["))
    return tuple(name for name in clicks if name not in _BUTTONS)
