"""Do two commits compute the same, byte for byte? The proof that a refactoring changed no number.

    python benchmarks/proof_of_value.py OLD NEW [--default] [--only NAME ...] [--allow WHAT=REASON]

For each commit: a git worktree of its own under --folder, in which Snakemake runs whole experiments
with that worktree's source and this Python's packages: the three minute experiments (every method,
2 steps; WebShop; Search-QA), with --default config/config.yaml too (25 minutes on two cores). Then
every file that is a function of the run is compared (proof_comparison.py): tasks, demonstrations,
metrics, policies, episodes, tokens, evaluations, comparison, answers, figures, pages.

Worktrees stay, with their results: a baseline is computed once. Stopped or killed, the same command
goes on where it was. OLD and NEW may be the same commit, which is then computed twice: what differs
is no function of the run. Only files are compared, so code may move as it likes between the two.

A change that is meant to show is declared, `--allow KIND:FIELD=REASON` or `--allow PATH:FIELD=...`,
with `*` in any of them: `--allow 'metrics:policy/entropy=now in bits'`. A file of such lines does
too (--allow-file). FIELD is a key of JSON (`runs.0.success`), a column, a heading of markdown;
`(bytes)` where a file has no fields, `(file)` where one tree lacks it. The output repeats them all.

Exit code: 0 if all is equal but what is declared, 1 if not, 2 if a commit's run failed.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from proof_comparison import (
    KINDS,
    NO_FUNCTION_OF_THE_RUN,
    VERDICTS,
    Compared,
    Declared,
    compare_trees,
)
from proof_runs import DEFAULT, ProofError, Tree, complete, experiment_of, open_tree

MINUTES = ("minute", "minute-webshop", "minute-searchqa")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdar" / "proof"
SHOWN = 5
"""Differences of a kind, and fields of a file, that are printed one by one."""


def parse_allowed(text: str) -> Declared:
    """`KIND:FIELD=REASON`. The reason may have any characters, a field no `=`."""
    place, equals, reason = text.partition("=")
    files, colon, field = place.partition(":")
    if not (files and colon and field and equals and reason.strip()):
        raise argparse.ArgumentTypeError(f"{text!r}: give KIND:FIELD=REASON or PATH:FIELD=REASON")
    return Declared(files.strip(), field.strip(), reason.strip())


def read_allowed(path: Path) -> list[Declared]:
    """One declaration a line; empty lines and those that begin with # are left out."""
    texts = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [parse_allowed(text) for text in texts if text and not text.startswith("#")]


def unused(allowed: Sequence[Declared], compared: Sequence[Compared]) -> list[Declared]:
    """Declarations that cover no difference."""
    return [
        declared
        for declared in allowed
        if not any(
            declared.covers(one.kind, one.path, difference.field)
            for one in compared
            for difference in one.differences
        )
    ]


def table(compared: Sequence[Compared]) -> str:
    """Files of each kind by verdict."""
    rows = [["kind", *VERDICTS]]
    for kind in KINDS:
        verdicts = [one.verdict for one in compared if one.kind == kind]
        rows.append([kind, *(str(verdicts.count(verdict)) for verdict in VERDICTS)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    cells = [
        [row[0].ljust(widths[0])]
        + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        for row in rows
    ]
    return "\n".join("  ".join(row).rstrip() for row in cells)


def details(compared: Sequence[Compared]) -> list[str]:
    """The first files of each kind that differ, and their first fields, with both values."""
    texts = []
    for kind in KINDS:
        files = [one for one in compared if one.kind == kind and one.verdict not in VERDICTS[:2]]
        for one in files[:SHOWN]:
            texts.append(f"{one.verdict}: {one.path}")
            left = [difference for difference in one.differences if difference.reason is None]
            for difference in left[:SHOWN] if one.only_in is None else []:
                place = f" ({difference.where})" if difference.where else ""
                texts += [
                    f"    {difference.field}{place}",
                    f"        old  {difference.old[:200]}",
                    f"        new  {difference.new[:200]}",
                ]
            if len(left) > SHOWN:
                texts.append(f"    and {len(left) - SHOWN} more fields")
        if len(files) > SHOWN:
            texts.append(f"and {len(files) - SHOWN} more files of {kind}")
    return texts


def allowances(compared: Sequence[Compared]) -> list[str]:
    """What was let pass: each reason with the kinds, fields and number of files it covers."""
    covered: dict[str, set[str]] = {}
    for one in compared:
        for difference in one.differences:
            if difference.reason is not None:
                covered.setdefault(difference.reason, set()).add(one.path)
    return [f"  {len(files)} x {reason}" for reason, files in covered.items()]


def report(compared: Sequence[Compared], allowed: Sequence[Declared], equal: bool) -> str:
    """All of it as text."""
    parts = [table(compared), *details(compared)]
    passed = allowances(compared)
    if passed:
        parts += ["Differences that are declared:", *passed]
    for declared in unused(allowed, compared):
        parts.append(f"Allowed, but not needed: {declared.files}:{declared.field}")
    return "\n".join([*parts, "EQUAL" if equal else "NOT EQUAL"])


def as_json(
    trees: Sequence[Tree], compared: Sequence[Compared], allowed: Sequence[Declared], equal: bool
) -> dict[str, Any]:
    """The same for programs: counts, and every file that is not equal with its fields."""
    return {
        "equal": equal,
        "commits": [tree.commit for tree in trees],
        "seconds": [tree.seconds() for tree in trees],
        "files": {
            kind: {
                v: sum(one.kind == kind and one.verdict == v for one in compared) for v in VERDICTS
            }
            for kind in KINDS
        },
        "differences": [
            {"verdict": one.verdict, **asdict(one)} for one in compared if one.verdict != "equal"
        ],
        "not_needed": [asdict(declared) for declared in unused(allowed, compared)],
    }


def prove(
    trees: Sequence[Tree], names: Sequence[str], cores: str, allowed: Sequence[Declared]
) -> list[Compared]:
    """Run what is missing at both commits, then compare. Raises ProofError."""
    for tree in trees:
        complete(tree, names, cores)
    old, new = (tree.root for tree in trees)
    declared = [*NO_FUNCTION_OF_THE_RUN, *allowed]
    experiments = [experiment_of(old, name) for name in names]
    return [one for name in experiments for one in compare_trees(old, new, name, declared)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("old", help="a commit, branch or tag: the baseline")
    add("new", help="the commit that should compute the same")
    add("--folder", type=Path, default=CACHE, help="keeps the worktrees (default: %(default)s)")
    add("--default", action="store_true", help="the default experiment too (25 minutes)")
    add(
        "--only",
        nargs="+",
        metavar="NAME",
        help="these experiments alone: names in config/experiments, or `default`",
    )
    add("--cores", default="all", help="Snakemake's; the same for both (default: %(default)s)")
    add(
        "--allow",
        type=parse_allowed,
        action="append",
        default=[],
        metavar="KIND:FIELD=REASON",
        help=f"a difference that is meant; kinds: {', '.join(KINDS)}",
    )
    add("--allow-file", type=Path, help="a file with a KIND:FIELD=REASON in each line")
    add("--json", action="store_true", help="print JSON in place of the table")
    options = parser.parse_args()
    names = options.only or [*MINUTES, *([DEFAULT] if options.default else [])]
    folder = options.folder.expanduser().resolve()
    try:
        allowed = options.allow + (read_allowed(options.allow_file) if options.allow_file else [])
        old = open_tree(folder, options.old)
        new = open_tree(folder, options.new)
        if old == new:
            new = open_tree(folder, options.new, ending="-again")
        compared = prove((old, new), names, options.cores, allowed)
    except (ProofError, argparse.ArgumentTypeError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    equal = all(one.verdict in VERDICTS[:2] for one in compared)
    if options.json:
        results = as_json((old, new), compared, allowed, equal)
        print(json.dumps(results, indent=2, ensure_ascii=False))
    else:
        print(report(compared, allowed, equal))
    sys.exit(not equal)


if __name__ == "__main__":
    main()
