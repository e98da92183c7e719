"""Whether compared runs rounded their sums in the same way: threads, ranks, batch sizes.

A difference changes no formula, only last digits; but after some steps that is another sample.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sdar.files.whole import read_json
from sdar.layout import Layout

Span = Mapping[str, Any]
"""Keys with their values, and from which step (or chunk of an evaluation) on they held."""
BEGIN = ("from_step", "from_chunk")


def spans_of(folder: Path) -> list[Span]:
    """What a run's folder says it was computed with; empty where an earlier version wrote it."""
    spans = read_json(folder / "provenance.json").get("computed_with")
    return spans if isinstance(spans, list) else []


def evaluation_spans(layout: Layout, method: str, seed: int) -> list[Span]:
    """`spans_of` an evaluation; earlier versions wrote them among its results."""
    folders = (layout.evaluating(method, seed), layout.evaluation(method, seed))
    return next(filter(None, map(spans_of, folders)), [])


def rounding_differences(runs: Iterable[tuple[str, list[Span]]]) -> dict[str, dict[str, list[str]]]:
    """key -> value as JSON -> the names of the runs that had it, for keys with several values.

    Where a run had a value only from some step on, its name is followed by that step.
    """
    values: dict[str, dict[str, list[str]]] = {}
    for name, spans in runs:
        last: dict[str, Any] = {}
        for span in spans:
            begin = next(f"{key.replace('_', ' ')} {span[key]}" for key in BEGIN if key in span)
            for key, value in span.items():
                if key in BEGIN or (key in last and last[key] == value):
                    continue
                where = f"{name} {begin}" if key in last else name
                values.setdefault(key, {}).setdefault(json.dumps(value), []).append(where)
                last[key] = value
    return {key: values[key] for key in sorted(values) if len(values[key]) > 1}
