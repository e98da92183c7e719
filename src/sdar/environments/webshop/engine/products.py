"""Products: what the shop knows of one, and how WebShop's files are read.

A record is a JSON object with WebShop's own keys; real and generated catalogues have the same.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdar.environments.webshop.engine.prices import parse_prices, price_tag, reward_price
from sdar.errors import SdarError

_TEXTS = ("asin", "name", "full_description", "category", "query", "product_category")
_LONGEST_ASIN = 10
_CHUNK = 1 << 22
_LONGEST_RECORD = 1 << 26
"""Characters; what is longer is taken for a broken file, and not read to its end."""

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class HumanInstruction:
    """One instruction a person wrote for a product."""

    instruction: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """One product. Texts are as recorded: markup and control characters are shown, never obeyed.

    `price_text` is the tag on pages, `price` what the reward compares, in dollars. `options` maps
    a lower-case name to its lower-case values, in page order. `nouns` are those of the name, lower
    case, in order, with duplicates. `instruction` is the synthetic one, None where there is none.
    """

    asin: str
    name: str
    description: str
    bullets: tuple[str, ...]
    price_text: str
    price: float
    options: dict[str, tuple[str, ...]]
    category: str
    query: str
    product_category: str
    attributes: tuple[str, ...]
    nouns: tuple[str, ...]
    instruction: str | None
    instruction_attributes: tuple[str, ...]
    human: tuple[HumanInstruction, ...]


def make_product(
    record: Mapping[str, Any],
    about: Mapping[str, Any],
    human: Sequence[Mapping[str, Any]],
    nouns: Sequence[str],
    seed: int,
) -> Product:
    """A product from its record, its attributes and instruction, and people's instructions.

    Raises SdarError naming the product and the key when a record is malformed.
    """
    check_record(record, "product")
    asin = record["asin"]
    bullets = record["small_description"]
    prices = _prices(record)
    instruction = about.get("instruction")
    attributes = _strings(about.get("instruction_attributes") or (), asin, "instruction_attributes")
    if instruction is not None and not (isinstance(instruction, str) and attributes):
        raise SdarError(
            f"product {asin}: its instruction needs to be text and to have "
            "instruction_attributes; correct items_ins_v2"
        )
    return Product(
        asin=asin,
        name=record["name"],
        description=record["full_description"],
        bullets=tuple(bullets) if isinstance(bullets, list) else (bullets,),
        price_text=price_tag(prices),
        price=reward_price(prices, seed, asin),
        options=_options(record),
        category=record["category"],
        query=record["query"].lower().strip(),
        product_category=record["product_category"],
        attributes=_strings(about.get("attributes") or (), asin, "attributes"),
        nouns=tuple(nouns),
        instruction=instruction,
        instruction_attributes=attributes,
        human=tuple(_human(one, asin) for one in human),
    )


def check_record(record: Any, where: str) -> None:
    """Raises SdarError, saying `where`, unless `record` has what a product needs."""
    if not isinstance(record, Mapping):
        raise SdarError(f"{where}: a product is an object, not {type(record).__name__}; correct it")
    for key in _TEXTS:
        if not isinstance(record.get(key), str) or (key == "asin" and not record[key].strip()):
            raise SdarError(
                f"{where} ({record.get('asin')}): {key} is missing or no text; "
                "give products in WebShop's form"
            )
    bullets = record.get("small_description")
    if not isinstance(bullets, str) and not _are_strings(bullets):
        raise SdarError(
            f"{where} ({record['asin']}): small_description is neither text nor a list of texts; "
            "give products in WebShop's form"
        )
    _prices(record)
    _options(record)


def is_usable(asin: str) -> bool:
    """WebShop leaves out products whose identifier is no Amazon one."""
    return asin != "nan" and len(asin) <= _LONGEST_ASIN


def read_products(folder: Path) -> Iterator[Record]:
    """The records of the one items_shuffle*.json in `folder`, one after another.

    Raises SdarError when there is none or more than one, or when it is not a list of products.
    """
    path = find_file(folder, "items_shuffle*.json")
    if path is None:
        raise SdarError(f"{folder} has no items_shuffle*.json: give a folder with WebShop's data")
    for number, record in enumerate(stream_array(path)):
        check_record(record, f"{path}, product {number}")
        yield record


def find_file(folder: Path, pattern: str) -> Path | None:
    """The file of `folder` that fits `pattern`, if any. Raises SdarError when there are more."""
    files = sorted(folder.glob(pattern))
    if len(files) > 1:
        raise SdarError(f"{folder} has {len(files)} files {pattern}: keep the one that is meant")
    return files[0] if files else None


def read_object(path: Path | None) -> dict[str, Any]:
    """A JSON object, empty for None. Raises SdarError when it is not one."""
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SdarError(f"{path} cannot be read as JSON ({error}): fetch it again") from error
    if not isinstance(content, dict):
        raise SdarError(f"{path}: expected an object keyed by asin; fetch it again")
    return content


def stream_array(path: Path) -> Iterator[Any]:
    """The elements of a JSON list, without holding the file: the whole WebShop file has 5 GB."""
    decoder = json.JSONDecoder()
    try:
        with path.open(encoding="utf-8") as file:
            text, position = file.read(_CHUNK).lstrip("\ufeff \t\r\n"), 1
            if not text.startswith("["):
                raise SdarError(f"{path}: expected a JSON list of products; fetch it again")
            number = 0
            while True:
                while position < len(text) and text[position] in ", \t\r\n":
                    position += 1
                if text[position : position + 1] == "]":
                    return
                try:
                    value, position = decoder.raw_decode(text, position)
                except ValueError as error:
                    more = file.read(max(_CHUNK, len(text) - position))
                    if not more or len(text) - position > _LONGEST_RECORD:
                        raise SdarError(
                            f"{path}: product {number} is broken ({error}): fetch the file again"
                        ) from error
                    text, position = text[position:] + more, 0
                    continue
                yield value
                number += 1
    except (OSError, UnicodeDecodeError) as error:
        raise SdarError(f"{path} cannot be read ({error}): fetch it again") from error


def _prices(record: Mapping[str, Any]) -> tuple[float, ...]:
    pricing = record.get("pricing")
    try:
        return parse_prices(pricing or "")
    except (ValueError, AttributeError) as error:
        raise SdarError(
            f"product {record['asin']}: pricing is {pricing!r}; expected as $12.98, $19.99$27.99, "
            "or empty text"
        ) from error


def _options(record: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    raw = record.get("customization_options") or {}
    options = {}
    try:
        for name, choices in raw.items():
            if choices is not None:
                values = (choice["value"].strip() for choice in choices)
                kept = tuple(value.replace("/", " | ").lower() for value in values if value)
                if kept or not choices:
                    options[name.lower()] = kept
    except (AttributeError, KeyError, TypeError) as error:
        raise SdarError(
            f"product {record['asin']}: customization_options is malformed ({error!r}); expected "
            'an object of lists of {"value": text}'
        ) from error
    return options


def _human(one: Mapping[str, Any], asin: str) -> HumanInstruction:
    if not isinstance(one, Mapping) or not isinstance(one.get("instruction"), str):
        raise SdarError(f"product {asin}: a human instruction has no text; correct items_human_ins")
    return HumanInstruction(
        one["instruction"],
        _strings(one.get("instruction_attributes"), asin, "instruction_attributes"),
        _strings(one.get("instruction_options"), asin, "instruction_options"),
    )


def _strings(value: Any, asin: str, key: str) -> tuple[str, ...]:
    if not _are_strings(value):
        raise SdarError(f"product {asin}: {key} is no list of texts; correct it")
    # A blank attribute would be in every text, and a blank option in none.
    return tuple(item for item in value if item.strip())


def _are_strings(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
