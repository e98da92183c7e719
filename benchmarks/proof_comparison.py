"""Two trees of results, file by file (proof_of_value.py).

A field that is no function of the run (seconds, above all) is in `NO_FUNCTION_OF_THE_RUN`, with the
reason; anything else that differs is a difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from proof_fields import BYTES, Difference, compare_files

KINDS = {
    "tasks": ["data/{experiment}/tasks/**/*"],
    "demonstrations": ["data/{experiment}/demonstrations/**/*"],
    "metrics": ["runs/{experiment}/**/metrics.jsonl"],
    "policies": ["runs/{experiment}/**/policy/*"],
    "training records": [
        "runs/{experiment}/warm_start/relabelled/*.parquet",
        "runs/{experiment}/*/seed-*/episodes.parquet",
        "runs/{experiment}/**/tokens/*.parquet",
    ],
    "evaluations": [
        "runs/{experiment}/**/evaluation/summary.json",
        "runs/{experiment}/**/evaluation/*.parquet",
    ],
    "comparison": [
        "results/{experiment}/comparison.json",
        "results/{experiment}/comparison.md",
        "results/{experiment}/episodes.parquet",
    ],
    "answers": ["results/{experiment}/answers.json", "results/{experiment}/answers.md"],
    "figures": ["results/{experiment}/figures/*.svg"],
    "pages": ["runs/{experiment}/**/*.html", "results/{experiment}/*.html"],
}
"""What is compared: patterns under the root."""

FILE = "(file)"
"""The field of a file that only one tree has."""


@dataclass(frozen=True)
class Declared:
    """A difference that is expected: fields of files, both as patterns with `*`, and why."""

    files: str
    """A kind, or a path under the root."""
    field: str
    reason: str

    def covers(self, kind: str, path: str, field: str) -> bool:
        return (self.files == kind or fnmatchcase(path, self.files)) and fnmatchcase(
            field, self.field
        )


_SECONDS = "seconds, which no two runs share"
NO_FUNCTION_OF_THE_RUN = [
    Declared("results/*/comparison.json", "costs.*.seconds.*", _SECONDS),
    Declared("results/*/comparison.json", "costs.*.total", _SECONDS),
    Declared("results/*/comparison.json", "costs.*.teacher_share", _SECONDS),
    Declared("results/*/comparison.md", "Cost*", _SECONDS),
    Declared("results/*/answers.json", "costs.*.seconds.*", _SECONDS),
    Declared("results/*/answers.json", "costs.*.seconds_share.*", _SECONDS),
    Declared("results/*/answers.md", "What did the teacher's pass cost?", _SECONDS),
    Declared("results/*/figures/teacher_cost.svg", BYTES, "bars of seconds"),
    Declared("results/*/comparison.html", BYTES, "comparison.md, seconds and all, as a page"),
    Declared("results/*/answers.html", BYTES, "answers.md, seconds and all, as a page"),
]
"""Beside it, other files hold nothing but such: timings.jsonl, provenance.json, tracking.json,
mlflow.json and logs, which are not compared."""


@dataclass(frozen=True)
class Compared:
    """One file of the two trees."""

    kind: str
    path: str
    differences: Sequence[Difference] = ()
    only_in: str | None = None
    """`old` or `new`, for a file that the other tree lacks."""

    @property
    def verdict(self) -> str:
        if not self.differences:
            return "equal"
        if all(difference.reason is not None for difference in self.differences):
            return "declared"
        return f"only in {self.only_in}" if self.only_in else "differs"


VERDICTS = ("equal", "declared", "differs", "only in old", "only in new")


def compare_trees(
    old: Path, new: Path, experiment: str, declared: Sequence[Declared]
) -> list[Compared]:
    """Every file of `KINDS` that either tree has for this experiment, in order of kind and path."""
    compared = []
    for kind in KINDS:
        in_old, in_new = files_of(old, kind, experiment), files_of(new, kind, experiment)
        for path in sorted(in_old.keys() | in_new.keys()):
            if path in in_old and path in in_new:
                one = Compared(kind, path, compare_files(in_old[path], in_new[path]))
            else:
                have = "old" if path in in_old else "new"
                there, missing = ("there", "missing")[:: 1 if have == "old" else -1]
                one = Compared(kind, path, [Difference(FILE, "", there, missing)], have)
            compared.append(with_reasons(one, declared))
    return compared


def files_of(root: Path, kind: str, experiment: str) -> dict[str, Path]:
    """The files of a kind by their path under the root; hidden ones (locks, times) are none."""
    patterns = [pattern.format(experiment=experiment) for pattern in KINDS[kind]]
    paths = {path for pattern in patterns for path in root.glob(pattern)}
    return {
        path.relative_to(root).as_posix(): path
        for path in paths
        if path.is_file() and not path.name.startswith(".")
    }


def with_reasons(compared: Compared, declared: Sequence[Declared]) -> Compared:
    """The same with the reason of each difference that is declared."""

    def reason(field: str) -> str | None:
        covering = (d.reason for d in declared if d.covers(compared.kind, compared.path, field))
        return next(covering, None)

    differences = [replace(d, reason=reason(d.field)) for d in compared.differences]
    return replace(compared, differences=differences)
