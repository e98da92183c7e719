"""What the shop's pages say and offer, in both observation modes.

A page is a list of pieces of text, each with its role, and its clickables in order. `text` joins
the pieces with " [SEP] "; `text_rich` gives one a line and marks what can be or has been clicked.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sdar.environments.webshop.engine.products import Product

Mode = Literal["text", "text_rich"]
Role = Literal["plain", "button", "option", "link"]

PAGE_SIZE = 10
BACK_TO_SEARCH, NEXT, PREVIOUS, BUY = "Back to Search", "Next >", "< Prev", "Buy Now"
SUB_PAGES = ("Description", "Features", "Reviews")
_RATING = "N.A."
_HTML_SPACES = " \n\t\f\r"


class Piece(NamedTuple):
    role: Role
    text: str


class OptionChoice(NamedTuple):
    """The target of an option value: choose it."""

    name: str
    value: str


class ProductLink(NamedTuple):
    """The target of a search result: go to the product."""

    place: int


class Button(NamedTuple):
    """The target of a button, by its lower-case text."""

    name: str


Target = Button | ProductLink | OptionChoice


@dataclass(frozen=True, slots=True)
class Page:
    """`targets`: what `click[...]` takes, in order."""

    pieces: tuple[Piece, ...]
    targets: dict[str, Target]
    has_search_bar: bool = False


def search_page(instruction: str) -> Page:
    """Where an episode starts."""
    pieces = (*_plain("WebShop", "Instruction: ", instruction), Piece("button", "Search"))
    return Page(pieces, {"search": Button("search")}, has_search_bar=True)


def results_page(
    instruction: str, number: int, total: int, shown: Sequence[tuple[int, Product]]
) -> Page:
    """Page `number` (from 1) of `total` results; `shown` are its (place, product) pairs."""
    buttons = [BACK_TO_SEARCH, *([PREVIOUS] if number > 1 else []), NEXT]
    pieces = [*_head(instruction), *_plain(f"Page {number} (Total results: {total})")]
    pieces += [Piece("button", button) for button in buttons[1:]]
    targets = _buttons(buttons)
    for place, product in shown:
        pieces.append(Piece("link", product.asin))
        pieces += _plain(product.name, product.price_text)
        targets[product.asin.lower()] = ProductLink(place)
    return Page(tuple(pieces), targets)


def item_page(instruction: str, product: Product) -> Page:
    """A product with its options. Of equal values the later option's is the one clicked."""
    pieces = [*_head(instruction), Piece("button", PREVIOUS)]
    targets = _buttons([BACK_TO_SEARCH, PREVIOUS, *SUB_PAGES, BUY])
    for name, values in product.options.items():
        pieces += _plain(name)
        pieces += [Piece("option", value) for value in values if value]
        targets.update((value, OptionChoice(name, value)) for value in values)
    pieces += _plain(product.name, f"Price: {product.price_text}", f"Rating: {_RATING}")
    pieces += [Piece("button", button) for button in (*SUB_PAGES, BUY)]
    return Page(tuple(pieces), targets)


def sub_page(instruction: str, product: Product, which: str) -> Page:
    """The product's description, features or reviews; there are never reviews."""
    texts: Sequence[str] = ()
    if which == "description":
        texts = [product.description]
    elif which == "features":
        texts = [f" {bullet}" for bullet in product.bullets]
    pieces = (*_head(instruction), Piece("button", PREVIOUS), *_plain(*texts))
    return Page(pieces, _buttons([BACK_TO_SEARCH, PREVIOUS]))


def thanks_page(asin: str, options: Mapping[str, str], reward: float) -> Page:
    """The end; the original fills in only what was bought and what it earned."""
    texts = ["Thank you for shopping with us!", "Your code: ", "None"]
    texts += [" (Paste it in your MTurk interface.)", "Purchased", "asin", asin]
    texts += ["options", _script_json(options)]
    for name in ("attrs", "category", "query", "product category"):
        texts += [name, "None"]
    texts += ["Target", "asin", "options", "attrs", "price upper", "instuction text"]
    texts += ["category", "product category", "query", "Goal ", "None", "Reward"]
    texts += ["Your score (min 0.0, max 1.0)", f"{reward}", "Reward Details ", "None"]
    return Page(_plain(*texts), {})


def render(page: Page, mode: Mode, address: str, visited: Collection[str]) -> str:
    """The observation. `address` is the page's URL, in which text_rich looks for chosen values;
    `visited` are the asins that were looked at."""
    if mode == "text":
        return " [SEP] ".join(piece.text.strip() for piece in page.pieces)
    lines: list[str] = []
    chosen: list[str] = []
    for role, text in page.pieces:
        if role == "button":
            lines.append(f"[button] {text} [button_]")
        elif role == "option":
            clicked = f'"{text}"' in address
            if clicked:
                chosen.append(f"You have clicked {text}.")
            lines.append(f"  {_marked(text, clicked)}")
        elif role == "link":
            lines.append(f"\n{_marked(text, text in visited)}")
        else:
            lines.append(text)
    return "".join(f"{line}\n" for line in (*reversed(chosen), *lines))


def _marked(text: str, clicked: bool) -> str:
    word = "clicked button" if clicked else "button"
    return f"[{word}] {text} [{word}_]"


def _head(instruction: str) -> tuple[Piece, ...]:
    return (*_plain("Instruction:", instruction), Piece("button", BACK_TO_SEARCH))


def _plain(*texts: str) -> tuple[Piece, ...]:
    """Pieces of plain text, as a browser's parser keeps them: runs of white space alone shrink to
    one character, and a lone line break is between tags, not text."""
    kept = (text if text.strip(_HTML_SPACES) else _blank(text) for text in texts)
    return tuple(Piece("plain", text) for text in kept if text not in ("", "\n"))


def _blank(text: str) -> str:
    return "\n" if "\n" in text else text[:1] and " "


def _buttons(names: Sequence[str]) -> dict[str, Target]:
    return {name.lower(): Button(name.lower()) for name in names}


def _script_json(options: Mapping[str, str]) -> str:
    """JSON with sorted keys, safe inside a script element, as Flask's templates write it."""
    text = json.dumps(dict(options), sort_keys=True)
    for character in "<>&'":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
