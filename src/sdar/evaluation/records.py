"""Rows of an evaluation: one an episode, and one a response token for recorded episodes. Pure.

The schemas are the contract between evaluation, comparison and report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from sdar.evaluation.panels import Chunk
from sdar.records.token_classes import token_classes
from sdar.rollout.episode import Episode, Turn

EPISODES = pl.Schema(
    {
        "method": pl.String,
        "seed": pl.Int64,  # run seed
        "with_skill": pl.Boolean,  # the skill was in the prompt that was played with
        "panel": pl.String,
        "evaluation_seed": pl.Int64,
        "task_id": pl.String,
        "task_type": pl.String,
        "data_set": pl.String,  # "" where the panel is one
        "success": pl.Boolean,
        "score": pl.Float64,  # the environment's own measure, 0-1; null where success is all
        "return": pl.Float64,
        "turns": pl.Int64,
        "invalid_share": pl.Float64,  # turns whose response does not parse
        "inadmissible_share": pl.Float64,  # turns whose action the environment does not offer
        "response_tokens": pl.Int64,
        "skill_digest": pl.String,  # null where no skill was shown
    }
)
EPISODES_ORDER = ["method", "seed", "with_skill", "panel", "evaluation_seed", "task_id"]

# Also the columns of training's records: what a stage or a method does not have is null.
TOKENS = pl.Schema(
    {
        "method": pl.String,
        "seed": pl.Int64,
        "with_skill": pl.Boolean,
        "panel": pl.String,  # or `train`
        "evaluation_seed": pl.Int64,
        "step": pl.Int64,  # of training; null in evaluation
        "episode": pl.String,
        "task_id": pl.String,
        "task_type": pl.String,
        "success": pl.Boolean,
        "turn": pl.Int64,
        "position": pl.Int64,  # in the response
        "token": pl.String,  # the text this token adds to the response
        "token_id": pl.Int64,
        "token_class": pl.String,  # see token_classes.py
        "student_log_prob": pl.Float64,
        "teacher_log_prob": pl.Float64,  # same weights, skill in the system message
        "reference_log_prob": pl.Float64,  # the frozen policy of the KL term
        "old_log_prob": pl.Float64,  # as it was sampled
        "gap": pl.Float64,  # teacher - student, nats
        "gate": pl.Float64,
        "advantage": pl.Float64,
        "action": pl.String,
        "valid": pl.Boolean,
        "admissible": pl.Boolean,
        "expert_action": pl.String,  # what the expert, told the habits, would do here
        "student_greedy_action": pl.String,
        "teacher_greedy_action": pl.String,
        "observation": pl.String,  # shown before the turn
        "next_observation": pl.String,
        "student_prompt": pl.String,
        "teacher_prompt": pl.String,
        "skill": pl.String,  # the privileged text's name, digest and words
        "skill_digest": pl.String,
        "skill_text": pl.String,
    }
)
TOKENS_ORDER = ["with_skill", "panel", "evaluation_seed", "episode", "turn", "position"]


@dataclass(frozen=True)
class ScoredTurn:
    """A turn with what the report needs beside it; the lists have one entry a response token.

    `expert_action` is None where no expert can play the task.
    """

    pieces: Sequence[str]
    student_log_probs: Sequence[float]
    teacher_log_probs: Sequence[float]
    gates: Sequence[float]
    student_prompt: str
    teacher_prompt: str
    skill: str
    skill_digest: str
    skill_text: str
    expert_action: str | None
    student_greedy_action: str
    teacher_greedy_action: str


def episode_row(episode: Episode, chunk: Chunk, method: str, seed: int) -> dict[str, Any]:
    """The row of one played episode (columns of `EPISODES`)."""
    turns = len(episode.turns)
    return {
        "method": method,
        "seed": seed,
        "with_skill": chunk.with_skill,
        "panel": chunk.panel,
        "evaluation_seed": chunk.evaluation_seed,
        "task_id": episode.task.id,
        "task_type": episode.task.task_type,
        "data_set": episode.task.data_set,
        "success": episode.won,
        "score": episode.score,
        "return": float(episode.episode_return),
        "turns": turns,
        "invalid_share": sum(not turn.valid for turn in episode.turns) / max(turns, 1),
        "inadmissible_share": sum(not turn.admissible for turn in episode.turns) / max(turns, 1),
        "response_tokens": sum(len(turn.response_ids) for turn in episode.turns),
        "skill_digest": episode.skill_digest,
    }


def token_rows(
    episode: Episode, scored: Sequence[ScoredTurn], identity: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Rows of all response tokens of an episode (columns of `TOKENS`).

    `identity`: method, seed, with_skill, panel, evaluation_seed and episode (its id).
    """
    rows = []
    for turn, score in zip(episode.turns, scored, strict=True):
        shared = turn_columns(episode, turn) | {
            name: getattr(score, name)
            for name in (
                "expert_action",
                "student_greedy_action",
                "teacher_greedy_action",
                "student_prompt",
                "teacher_prompt",
                "skill",
                "skill_digest",
                "skill_text",
            )
        }
        columns = zip(
            score.pieces,
            turn.response_ids,
            token_classes(score.pieces),
            score.student_log_probs,
            score.teacher_log_probs,
            turn.log_probs,
            score.gates,
            strict=True,
        )
        for position, (piece, token_id, kind, student, teacher, old, gate) in enumerate(columns):
            rows.append(
                {
                    **identity,
                    **shared,
                    "position": position,
                    "token": piece,
                    "token_id": token_id,
                    "token_class": kind,
                    "student_log_prob": student,
                    "teacher_log_prob": teacher,
                    "old_log_prob": old,
                    "gap": teacher - student,
                    "gate": gate,
                }
            )
    return rows


def turn_columns(episode: Episode, turn: Turn) -> dict[str, Any]:
    """What all tokens of a turn share, whoever scored them (columns of `TOKENS`)."""
    return {
        "task_id": episode.task.id,
        "task_type": episode.task.task_type,
        "success": episode.won,
        "turn": turn.index,
        "action": turn.action,
        "valid": turn.valid,
        "admissible": turn.admissible,
        "observation": turn.observation,
        "next_observation": turn.next_observation,
    }


def skill_in(messages: Sequence[Mapping[str, str]]) -> str | None:
    """The privileged text of a chat: its system message, if it has one."""
    return next((m["content"] for m in messages if m["role"] == "system"), None)


def episodes_frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Episode rows as a sorted frame: the same bytes whatever order they were played in."""
    return pl.DataFrame(list(rows), schema=EPISODES, orient="row").sort(EPISODES_ORDER)


def tokens_frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Token rows as a sorted frame."""
    return token_table(rows).sort(TOKENS_ORDER)


def token_table(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Token rows as a frame in their own order; columns that a row lacks are null."""
    return pl.DataFrame([[row.get(name) for name in TOKENS] for row in rows], TOKENS, orient="row")
