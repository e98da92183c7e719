"""Rows of an evaluation's recorded episodes, one per response token. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdar.records.tables import turn_columns
from sdar.records.token_classes import token_classes
from sdar.rollout.episode import Episode

_OF_TURN = (
    *("expert_action", "student_greedy_action", "teacher_greedy_action"),
    *("student_prompt", "teacher_prompt", "skill", "skill_digest", "skill_text"),
)


@dataclass(frozen=True)
class ScoredTurn:
    """What the report needs of a turn besides the turn; lists have one entry per response token.

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


def token_rows(
    episode: Episode, scored: Sequence[ScoredTurn], identity: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Rows of all response tokens of an episode (columns of `TOKENS`).

    `identity`: method, seed, with_skill, panel, evaluation_seed and episode (its id).
    """
    rows = []
    for turn, score in zip(episode.turns, scored, strict=True):
        shared = turn_columns(episode, turn) | {name: getattr(score, name) for name in _OF_TURN}
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
