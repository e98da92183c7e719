"""Recorded scoring cases against Search-QA's scoring."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdar.environments.recorded import RecordedFormat, ReplayReport, are_records
from sdar.environments.searchqa.engine.scoring import exact_match, substring_match


def are_scoring_cases(cases: Any) -> bool:
    return are_records(cases, {"text", "targets", "exact_match", "substring_match"})


def replay_scoring(cases: Sequence[dict[str, Any]], data: Path | None = None) -> ReplayReport:
    """Compare (exact match, substring match) of every case; the scores are 0 or 1."""
    report = ReplayReport()
    for number, case in enumerate(cases):
        text, targets = case["text"], case["targets"]
        report.compare(
            f"case {number}, text {text!r}, targets {targets!r}",
            (case["exact_match"], case["substring_match"]),
            (int(exact_match(text, targets)), int(substring_match(text, targets))),
        )
    return report


FORMATS = (
    RecordedFormat("scoring cases of answers", are_scoring_cases, replay_scoring, needs_data=False),
)
