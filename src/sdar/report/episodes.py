"""Recorded episodes for people: from token rows (of evaluation or training) to turns. Reading only.

Evaluations and recorded training steps have the same columns (`evaluation.records.TOKENS`); what a
method does not have, such as a teacher in training, is null.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from sdar.config import ExperimentConfig, Layout
from sdar.errors import SdarError
from sdar.evaluation.records import TOKENS
from sdar.report.runs import evaluations, trained_methods
from sdar.report.style import label

DIGITS = 4


@dataclass
class TokenTurn:
    """A turn and, per response token: its text, and (gap, gate, student, teacher), nats."""

    action: str
    valid: bool
    admissible: bool
    observation: str
    result: str
    student_prompt: str
    teacher_prompt: str
    tokens: list[str] = field(default_factory=list)
    values: list[tuple[float | None, ...]] = field(default_factory=list)


@dataclass
class TokenEpisode:
    """One recorded episode. `source` says whose it is; `stage` is `evaluation` or `training`."""

    source: str
    stage: str
    panel: str
    task_id: str
    task_type: str
    success: bool
    turns: list[TokenTurn]


def read_all(config: ExperimentConfig, layout: Layout) -> list[TokenEpisode]:
    """Every recorded episode of the experiment: evaluations first, then training steps."""
    found: list[TokenEpisode] = []
    for method, seed in evaluations(config, layout):
        path = layout.evaluation(method, seed) / "tokens.parquet"
        found += read_tokens(path, source=_source(config, method, seed), stage="evaluation")
    for method in trained_methods(config):
        for seed in config.seeds:
            for path in sorted((layout.run(method, seed) / "tokens").glob("step-*.parquet")):
                step = int(path.stem.removeprefix("step-"))
                source = _source(config, method, seed)
                found += read_tokens(path, source=source, stage="training", step=step)
    return found


def read_tokens(
    path: Path, *, source: str, stage: str, step: int | None = None
) -> list[TokenEpisode]:
    """Episodes of one token file, in its own order. Raises SdarError for a file without them."""
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise SdarError(
            f"{path}: not a readable token file ({' '.join(str(error).split())[:120]}); make it "
            "again with the stage that writes it"
        ) from None
    missing = [name for name in TOKENS if name not in frame.columns]
    if missing:
        raise SdarError(
            f"{path}: columns {', '.join(missing)} are missing; make it again with the stage that "
            "writes it"
        )
    frame = frame.sort("panel", "episode", "turn", "position")
    episodes: dict[Any, TokenEpisode] = {}
    turns: dict[Any, TokenTurn] = {}
    for row in frame.iter_rows(named=True):
        key = row["episode"]
        if key not in episodes:
            episodes[key] = TokenEpisode(
                source=source,
                stage=stage,
                panel=row["panel"] if step is None else f"step {step}",
                task_id=row["task_id"],
                task_type=row["task_type"],
                success=row["success"],
                turns=[],
            )
        if (key, row["turn"]) not in turns:
            turns[key, row["turn"]] = _turn(row)
            episodes[key].turns.append(turns[key, row["turn"]])
        turn = turns[key, row["turn"]]
        turn.tokens.append(row["token"])
        turn.values.append(_values(row))
    return list(episodes.values())


def _turn(row: Mapping[str, Any]) -> TokenTurn:
    return TokenTurn(
        action=row["action"] or "",
        valid=row["valid"],
        admissible=row["admissible"],
        observation=row["observation"] or "",
        result=row["next_observation"] or "",
        student_prompt=row["student_prompt"] or "",
        teacher_prompt=row["teacher_prompt"] or "",  # null for methods without a teacher
    )


def _values(row: Mapping[str, Any]) -> tuple[float | None, ...]:
    values = (row["gap"], row["gate"], row["student_log_prob"], row["teacher_log_prob"])
    return tuple(None if value is None else round(value, DIGITS) for value in values)


def _source(config: ExperimentConfig, method: str, seed: int) -> str:
    name = label(method)
    return f"{name}, seed {seed}" if method in trained_methods(config) else name
