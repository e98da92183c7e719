"""Per-token records of a few episodes of a step: to parquet, and as traces to MLflow.

The columns are those of an evaluation's token records and a few more, so that the report reads
them alike. What a method does not have (a teacher, a gate, a reference) is null.

Shape suffixes: S samples, R response tokens.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from sdar.files.tables import rows_of
from sdar.files.whole import write_parquet
from sdar.policy.chat import token_pieces
from sdar.records.page import run_page
from sdar.records.tables import TRAINING_TOKENS, skill_in, token_table, turn_columns
from sdar.records.token_classes import token_classes
from sdar.tracking.recorder import RunRecorder
from sdar.tracking.traces import episode_record
from sdar.training.learner import Learner
from sdar.training.step_result import StepResult


def record_tokens(recorder: RunRecorder, folder: Path, done: StepResult, learner: Learner) -> Path:
    """Write `folder/step-<step>.parquet` for `training.recorded_episodes` episodes spread evenly
    over the step's slots, and their page next to it; send file, page and episodes to MLflow.
    Returns the file."""
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
    table = token_table(rows, TRAINING_TOKENS)
    write_parquet(path, table)
    recorder.artifact(path, "tokens")
    name = f"{learner.method.name}/seed-{learner.seed}, step {done.step}"
    page = path.with_suffix(".html")
    recorder.artifact(run_page(page, rows_of(table), learner.config, name), "pages")
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
    return path


def recorded_slots(episodes: int, count: int) -> list[int]:
    """`count` slots (or all) spread evenly over the episodes of a step."""
    count = min(count, episodes)
    return [place * episodes // count for place in range(count)]


def drop_tokens(folder: Path, from_step: int) -> None:
    """Remove the records of `from_step` and later: those steps are run again."""
    for path in (*folder.glob("step-*.parquet"), *folder.glob("step-*.html")):
        number = path.stem.removeprefix("step-")
        if number.isdecimal() and int(number) >= from_step:
            path.unlink()


def _token_rows(done: StepResult, learner: Learner, sample: int) -> Iterator[dict[str, Any]]:
    episode, turn = done.batch.owners[sample], done.batch.turns[sample]
    tokenizer = learner.parts.tokenizer
    teacher = turn.teacher
    untaught = ("teacher_log_prob", "gap", "gate") if teacher is None else ()
    shared = turn_columns(episode, turn) | {
        "method": learner.method.name,
        "seed": learner.seed,
        "with_skill": learner.method.rollout_with_skill,
        "panel": "train",
        "step": done.step,
        "episode": f"step-{done.step:05d}/slot-{episode.slot}",
        "student_prompt": tokenizer.decode(turn.prompt.token_ids),
        "teacher_prompt": tokenizer.decode(teacher.prompt.token_ids) if teacher else None,
        "skill": teacher.skill if teacher else episode.skill,
        "skill_digest": teacher.digest if teacher else episode.skill_digest,
        "skill_text": skill_in((teacher or turn).prompt.messages),
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
    pieces = token_pieces(tokenizer, turn.response_ids)
    tokens = zip(pieces, turn.response_ids, token_classes(pieces), strict=True)
    for position, (piece, token_id, kind) in enumerate(tokens):
        values = {
            name: None
            if values_SR is None or name in untaught
            else float(values_SR[sample, position])
            for name, values_SR in columns.items()
        }
        about = {"token": piece, "token_id": token_id, "token_class": kind}
        yield {**shared, "position": position, **about, **values}


def _of_turns(
    values_SR: Tensor | None, done: StepResult, samples: list[int]
) -> list[list[float]] | None:
    if values_SR is None:
        return None
    turns = done.batch.turns
    return [
        [] if turns[s].teacher is None else values_SR[s, : len(turns[s].response_ids)].tolist()
        for s in samples
    ]
