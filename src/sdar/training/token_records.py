"""Per-token records of a few episodes of a step: to parquet, and as traces to MLflow.

The columns are those of an evaluation's token records and a few more, so that the report reads
them alike. What a method does not have (a teacher, a gate, a reference) is null.

Shape suffixes: S samples, R response tokens.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
from torch import Tensor

from sdar.evaluation.partial import write_parquet
from sdar.evaluation.records import TOKENS
from sdar.policy.loading import token_pieces
from sdar.tracking.recorder import RunRecorder
from sdar.tracking.traces import episode_record
from sdar.training.learner import Learner
from sdar.training.step import StepResult

SCHEMA = pl.Schema(
    [
        *TOKENS.items(),
        ("step", pl.Int64()),
        ("old_log_prob", pl.Float64()),
        ("reference_log_prob", pl.Float64()),
        ("advantage", pl.Float64()),
        ("return", pl.Float64()),
    ]
)


def record_tokens(recorder: RunRecorder, folder: Path, done: StepResult, learner: Learner) -> None:
    """Write `folder/step-<step>.parquet` for `training.recorded_episodes` episodes spread evenly
    over the step's slots, and send the same episodes to MLflow."""
    slots = recorded_slots(len(done.batch.episodes), learner.config.training.recorded_episodes)
    samples = {
        slot: [row for row, owner in enumerate(done.batch.owners) if owner.slot == slot]
        for slot in slots
    }
    rows = [
        record
        for slot in slots
        for sample in samples[slot]
        for record in _token_rows(done, learner, sample)
    ]
    path = folder / f"step-{done.step:05d}.parquet"
    write_parquet(path, pl.DataFrame(rows, schema=SCHEMA, orient="row"))
    recorder.artifact(path, "tokens")
    recorder.episodes(
        [
            episode_record(
                done.batch.episodes[slot],
                gaps=_of_turns(done.gap_SR, done, samples[slot]),
                gates=_of_turns(done.gate_SR, done, samples[slot]),
            )
            for slot in slots
        ],
        step=done.step,
    )


def recorded_slots(episodes: int, count: int) -> list[int]:
    """`count` slots (or all) spread evenly over the episodes of a step."""
    count = min(count, episodes)
    return [place * episodes // count for place in range(count)]


def drop_tokens(folder: Path, from_step: int) -> None:
    """Remove the records of `from_step` and later: those steps are run again."""
    for path in folder.glob("step-*.parquet"):
        if int(path.stem.removeprefix("step-")) >= from_step:
            path.unlink()


def _token_rows(done: StepResult, learner: Learner, sample: int) -> Iterator[dict[str, Any]]:
    episode, turn = done.batch.owners[sample], done.batch.turns[sample]
    tokenizer = learner.parts.tokenizer
    shared = {
        "method": learner.method.name,
        "seed": learner.seed,
        "with_skill": learner.method.rollout_with_skill,
        "panel": "train",
        "evaluation_seed": None,
        "episode": f"step-{done.step:05d}/slot-{episode.slot}",
        "task_id": episode.task.id,
        "task_type": episode.task.task_type,
        "success": episode.won,
        "turn": turn.index,
        "action": turn.action,
        "valid": turn.valid,
        "admissible": turn.admissible,
        "observation": turn.observation,
        "next_observation": turn.next_observation,
        "student_prompt": tokenizer.decode(turn.prompt_ids),
        "teacher_prompt": tokenizer.decode(done.teacher[sample].prompt_ids)
        if done.teacher
        else None,
        "step": done.step,
        "return": float(episode.episode_return),
    }
    columns = {
        "student_log_prob": done.student_SR,
        "teacher_log_prob": done.teacher_SR,
        "old_log_prob": done.old_SR,
        "reference_log_prob": done.reference_SR,
        "gap": done.gap_SR,
        "gate": done.gate_SR,
        "advantage": done.advantages_SR,
    }
    for position, piece in enumerate(token_pieces(tokenizer, turn.response_ids)):
        values = {
            name: None if values_SR is None else float(values_SR[sample, position])
            for name, values_SR in columns.items()
        }
        yield {**shared, "position": position, "token": piece, **values}


def _of_turns(
    values_SR: Tensor | None, done: StepResult, samples: list[int]
) -> list[list[float]] | None:
    if values_SR is None:
        return None
    return [values_SR[s, : len(done.batch.turns[s].response_ids)].tolist() for s in samples]
