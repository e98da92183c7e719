"""Recorded episodes for people: from token rows (of evaluation or training) to turns. Reading only.

Evaluations and recorded training steps have the same columns (`tables.TOKENS`); what a
method does not have, such as a teacher in training, is null.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdar.config import ExperimentConfig, Layout
from sdar.files.tables import rows_of, sorted_by
from sdar.methods.roles import label, trained_among
from sdar.records.runs import evaluations
from sdar.records.token_files import read_token_file, training_files

DIGITS = 4
NUMBERS = (
    *("gap", "gate", "advantage"),
    *("student_log_prob", "teacher_log_prob", "reference_log_prob", "old_log_prob"),
)
"""What is shown of a token, in this order everywhere."""


@dataclass
class TokenTurn:
    """A turn and, per response token: its text, id, class, and numbers (as `NUMBERS`, nats)."""

    number: int
    """From 1."""
    action: str
    valid: bool
    admissible: bool
    expert_action: str | None
    student_greedy_action: str | None
    teacher_greedy_action: str | None
    observation: str
    result: str
    student_prompt: str
    teacher_prompt: str
    skill_text: str
    tokens: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    values: list[tuple[float | None, ...]] = field(default_factory=list)


@dataclass
class TokenEpisode:
    """One recorded episode. `source` names its run; `stage` is `evaluation` or `training`."""

    source: str
    method: str
    seed: int
    stage: str
    panel: str
    task_id: str
    task_type: str
    success: bool
    skill: str
    """Name and digest of the privileged text; empty where there is none."""
    turns: list[TokenTurn]
    signed_gate: bool = False
    """Its gates are weights of either sign (`sdar_centred`): no weight is 0, not one half."""


def read_all(config: ExperimentConfig, layout: Layout) -> list[TokenEpisode]:
    """Every recorded episode of the experiment: evaluations first, then training steps."""
    episodes: list[TokenEpisode] = []
    for method, seed in evaluations(config, layout):
        path = layout.evaluation(method, seed) / "tokens.parquet"
        episodes += read_tokens(path, source=_source(config, method, seed))
    for method in trained_among(config.methods):
        for seed in config.seeds:
            for _, path in training_files(layout.run(method, seed)):
                episodes += read_tokens(path, source=_source(config, method, seed))
    return episodes


def read_tokens(path: Path, *, source: str) -> list[TokenEpisode]:
    """Episodes of one token file, by panel, id and turn. Raises SdarError for a file without
    them."""
    table = sorted_by(read_token_file(path), ["panel", "episode", "turn", "position"])
    return episodes_of_rows(rows_of(table), source=source)


def episodes_of_rows(rows: Iterable[Mapping[str, Any]], *, source: str) -> list[TokenEpisode]:
    """Episodes of token rows, in the order in which they come."""
    episodes: dict[Any, TokenEpisode] = {}
    turns: dict[Any, TokenTurn] = {}
    for row in rows:
        key = row["episode"]
        if key not in episodes:
            episodes[key] = _episode(row, source)
        if (key, row["turn"]) not in turns:
            turns[key, row["turn"]] = _turn(row)
            episodes[key].turns.append(turns[key, row["turn"]])
        turn = turns[key, row["turn"]]
        turn.tokens.append(row["token"])
        turn.token_ids.append(row["token_id"])
        turn.classes.append(row["token_class"])
        turn.values.append(_values(row))
        if row["gate"] is not None and row["gate"] < 0:
            episodes[key].signed_gate = True
    return list(episodes.values())


def _episode(row: Mapping[str, Any], source: str) -> TokenEpisode:
    in_training = row["step"] is not None
    return TokenEpisode(
        source=source,
        method=row["method"],
        seed=row["seed"],
        stage="training" if in_training else "evaluation",
        panel=f"step {row['step']}" if in_training else row["panel"],
        task_id=row["task_id"],
        task_type=row["task_type"],
        success=row["success"],
        skill=f"{row['skill']} ({row['skill_digest']})" if row["skill"] else "",
        turns=[],
    )


def _turn(row: Mapping[str, Any]) -> TokenTurn:
    return TokenTurn(
        number=row["turn"] + 1,
        action=row["action"] or "",
        valid=row["valid"],
        admissible=row["admissible"],
        expert_action=row["expert_action"],
        student_greedy_action=row["student_greedy_action"],
        teacher_greedy_action=row["teacher_greedy_action"],
        observation=row["observation"] or "",
        result=row["next_observation"] or "",
        student_prompt=row["student_prompt"] or "",
        teacher_prompt=row["teacher_prompt"] or "",  # null for methods without a teacher
        skill_text=row["skill_text"] or "",
    )


def _values(row: Mapping[str, Any]) -> tuple[float | None, ...]:
    values = (row[name] for name in NUMBERS)
    # Null where there is none, and where it is not finite, which JSON cannot say.
    return tuple(
        round(value, DIGITS) if value is not None and math.isfinite(value) else None
        for value in values
    )


def _source(config: ExperimentConfig, method: str, seed: int) -> str:
    name = label(method)
    return f"{name}, seed {seed}" if method in trained_among(config.methods) else name
