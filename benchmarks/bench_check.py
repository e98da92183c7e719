"""Did ratios of `sdar bench passes` get worse? A new run beside the stored ones.

    python benchmarks/bench_check.py NEW.json [--stored FILE ...]

Compares with benchmarks/results/passes-*.json of the same machine, or of all machines where this
one has none. What of a ratio is worse, and by how much it may be, the stored file says (`check`).
Exit code: 0 where nothing is worse, 1 where something is, 2 where there is nothing to compare.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import RESULTS
from passes_ratios import compare

BENCH = "passes"


class NothingToCompare(Exception):
    """In one sentence."""


def read(path: Path) -> dict[str, Any]:
    """A run's file; raises NothingToCompare where it is none, or one whose numbers mean nothing."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NothingToCompare(f"{path}: cannot be read: {error}") from None
    if not isinstance(values, dict) or values.get("bench") != BENCH:
        raise NothingToCompare(f"{path}: not written by `sdar bench {BENCH}`")
    if values["small"]:
        raise NothingToCompare(f"{path}: a run with --small, whose numbers mean nothing")
    return values


def of_machine(files: Sequence[Path], name: str) -> list[Path]:
    """Those of the machine, or all where there are none."""
    same = [path for path in files if read(path)["machine"]["name"] == name]
    return same or list(files)


def check(new: Path, stored: Sequence[Path]) -> bool:
    """Print what became of each stored ratio; whether none is worse."""
    values = read(new)
    chosen = of_machine(stored, values["machine"]["name"])
    if not chosen:
        raise NothingToCompare(
            f"no {BENCH}-*.json in {RESULTS}: run `sdar bench {BENCH}` and keep its file there"
        )
    good = True
    for path in chosen:
        old = read(path)
        print(f"{path.name} ({old['machine']['name']}, commit {old['commit']}):")
        for verdict in compare(old, values):
            print(f"  {verdict.sentence}")
            good = good and not verdict.worse
    return good


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("new", type=Path, help="the JSON of a new run")
    parser.add_argument("--stored", type=Path, nargs="+", help="default: see above")
    options = parser.parse_args()
    stored = options.stored or sorted(RESULTS.glob(f"{BENCH}-*.json"))
    try:
        good = check(options.new, stored)
    except NothingToCompare as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
