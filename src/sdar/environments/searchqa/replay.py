"""Recorded scoring cases against Search-QA's scoring."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sdar.environments.searchqa.engine.scoring import exact_match, substring_match

if TYPE_CHECKING:
    from sdar.cli.replay import ReplayReport

KEYS = {"text", "targets", "exact_match", "substring_match"}


def are_scoring_cases(cases: Any) -> bool:
    """A list of {text, targets, exact_match, substring_match}."""
    return (
        isinstance(cases, list)
        and bool(cases)
        and all(isinstance(case, dict) and case.keys() >= KEYS for case in cases)
    )


def replay_scoring(cases: Sequence[dict[str, Any]], report: "ReplayReport") -> "ReplayReport":
    """Compare (exact match, substring match) of every case; the scores are 0 or 1."""
    for number, case in enumerate(cases):
        text, targets = case["text"], case["targets"]
        report.compare(
            f"case {number}, text {text!r}, targets {targets!r}",
            (case["exact_match"], case["substring_match"]),
            (int(exact_match(text, targets)), int(substring_match(text, targets))),
        )
    return report
