"""Two files: equal bytes, or the fields that differ, each where it first does (proof_of_value.py).

Fields are keys of JSON, columns of parquet, sections of markdown. A file of another format has its
bytes alone.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import polars as pl

BYTES = "(bytes)"
"""The field of a file that has no others, or whose bytes differ though all its fields are equal."""
MISSING = "missing"


@dataclass(frozen=True)
class Difference:
    """Of one field: the first place where it differs, with both values as text."""

    field: str
    where: str
    old: str
    new: str
    reason: str | None = None
    """Why it is allowed; None where it is not."""


def compare_files(old: Path, new: Path) -> list[Difference]:
    """The fields that differ; none if the bytes are equal. Fields that a file does not have, or
    equal ones in unequal bytes, leave the bytes themselves."""
    before, after = old.read_bytes(), new.read_bytes()
    if before == after:
        return []
    compare = COMPARISONS.get(old.suffix)
    differences = compare(old, new) if compare else []
    return differences or [compare_bytes(before, after)]


def compare_bytes(old: bytes, new: bytes) -> Difference:
    """The first byte that differs, and what follows it."""
    pairs = enumerate(zip_longest(old, new))
    first = next(place for place, (one, other) in pairs if one != other)
    old_text, new_text = (repr(data[first : first + 24])[1:] for data in (old, new))
    return Difference(BYTES, f"byte {first}", old_text, new_text)


def compare_json(old: Path, new: Path) -> list[Difference]:
    """Leaves by their path, such as `costs.0.seconds.update`."""
    before, after = (dict(leaves(json.loads(path.read_bytes()))) for path in (old, new))
    return differing(before, after, "")


def compare_json_lines(old: Path, new: Path) -> list[Difference]:
    """Keys of the lines, each at the first line where it differs."""
    before, after = ([json.loads(line) for line in lines(path)] for path in (old, new))
    first: dict[str, Difference] = {}
    for number, (one, other) in enumerate(zip(before, after, strict=False), start=1):
        of_line = differing(dict(leaves(one)), dict(leaves(other)), f"line {number}")
        first = {difference.field: difference for difference in of_line} | first
    return counted("lines", len(before), len(after)) + list(first.values())


def compare_parquet(old: Path, new: Path) -> list[Difference]:
    """Columns, each at the first row where it differs; a column's type counts too."""
    before, after = pl.read_parquet(old), pl.read_parquet(new)
    differences = counted("rows", before.height, after.height)
    differences += differing(types(before), types(after), "type")
    for name in before.columns:
        if name in after.columns and before.schema[name] == after.schema[name]:
            pairs = enumerate(zip(before[name].to_list(), after[name].to_list(), strict=False))
            texts = ((row, repr(one), repr(other)) for row, (one, other) in pairs)
            at = next((Difference(name, f"row {r}", a, b) for r, a, b in texts if a != b), None)
            differences += [at] if at else []
    return differences


def compare_markdown(old: Path, new: Path) -> list[Difference]:
    """Sections by their heading, each at the first line where it differs."""
    before, after = sections(lines(old)), sections(lines(new))
    differences = []
    for difference in differing(before, after, "section"):
        one, other = (parts.get(difference.field, "").splitlines() for parts in (before, after))
        pairs = zip_longest(one, other, fillvalue=MISSING)
        first = next(((old, new) for old, new in pairs if old != new), None)
        differences.append(replace(difference, old=first[0], new=first[1]) if first else difference)
    return differences


COMPARISONS: Mapping[str, Callable[[Path, Path], list[Difference]]] = {
    ".json": compare_json,
    ".jsonl": compare_json_lines,
    ".parquet": compare_parquet,
    ".md": compare_markdown,
}


def differing(old: Mapping[str, str], new: Mapping[str, str], where: str) -> list[Difference]:
    """The keys whose values differ, and `(order)` if those of both stand in another order."""
    pairs = [(key, old.get(key, MISSING), new.get(key, MISSING)) for key in {**old, **new}]
    differences = [Difference(key, where, one, other) for key, one, other in pairs if one != other]
    shared = zip(
        (key for key in old if key in new), (key for key in new if key in old), strict=True
    )
    swapped = next(((one, other) for one, other in shared if one != other), None)
    return [*differences, Difference("(order)", where, *swapped)] if swapped else differences


def counted(what: str, old: int, new: int) -> list[Difference]:
    """A difference in number as a field of its own."""
    return [Difference(f"({what})", "", str(old), str(new))] if old != new else []


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The values of nested JSON with their paths, as JSON: 1 and 1.0 differ, NaN equals NaN."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.dumps(value, ensure_ascii=False)


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def sections(text: Sequence[str]) -> dict[str, str]:
    """The text under each heading; what stands before the first has none, ``."""
    parts: dict[str, str] = {}
    heading = ""
    for line in text:
        if line.startswith("#"):
            heading = line.lstrip("# ")
        parts[heading] = parts.get(heading, "") + line + "\n"
    return parts


def types(table: pl.DataFrame) -> dict[str, str]:
    return {name: str(kind) for name, kind in table.schema.items()}
