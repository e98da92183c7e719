"""The tables of episodes and of response tokens: one row for each. Pure.

Their schemas are the contract between those who play, in training or evaluation, and comparison,
pages and report.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from sdar.rollout.episode import Episode, Turn

_EPISODE = {
    "method": pl.String,
    "seed": pl.Int64,  # run seed
    "with_skill": pl.Boolean,  # the skill was in the prompt that was played with
    "panel": pl.String,
    "evaluation_seed": pl.Int64,
    "step": pl.Int64,  # of training
    "slot": pl.Int64,  # in the step's batch
    "group": pl.Int64,  # episodes of one group play one task
    "task_id": pl.String,
    "task_type": pl.String,
    "data_set": pl.String,  # "" where the panel is one
    "success": pl.Boolean,
    "score": pl.Float64,  # the environment's own measure, 0-1; null where success is all
    "return": pl.Float64,
    "turns": pl.Int64,
    "invalid_share": pl.Float64,  # turns whose response does not parse
    "inadmissible_share": pl.Float64,  # turns whose action the environment does not offer
    "prompt_tokens": pl.Int64,
    "response_tokens": pl.Int64,
    "skill_digest": pl.String,  # of the prompt's own skill; null where none was shown
}
_OF_TRAINING = ("step", "slot", "group", "prompt_tokens")
_OF_EVALUATION = (
    *("method", "seed", "with_skill", "panel", "evaluation_seed"),
    *("data_set", "score"),
)
EPISODES = pl.Schema({name: kind for name, kind in _EPISODE.items() if name not in _OF_TRAINING})
"""Of an evaluation."""
EPISODES_ORDER = ["method", "seed", "with_skill", "panel", "evaluation_seed", "task_id"]
TRAINING_EPISODES = pl.Schema(
    {name: kind for name, kind in _EPISODE.items() if name not in _OF_EVALUATION}
)

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
        "teacher_log_prob": pl.Float64,  # same weights, told the skill
        "reference_log_prob": pl.Float64,  # the frozen policy of the KL term
        "old_log_prob": pl.Float64,  # as it was sampled
        "gap": pl.Float64,  # teacher - student, nats
        "gate": pl.Float64,
        "advantage": pl.Float64,
        "action": pl.String,
        "valid": pl.Boolean,
        "admissible": pl.Boolean,
        "expert_action": pl.String,  # of the expert, who knows the world's habits
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
"""Of training and evaluation alike: what a stage or a method does not have is null."""
TOKENS_ORDER = ["with_skill", "panel", "evaluation_seed", "episode", "turn", "position"]
TRAINING_TOKENS = pl.Schema([*TOKENS.items(), ("return", pl.Float64())])


def episode_row(schema: pl.Schema, episode: Episode, **identity: Any) -> dict[str, Any]:
    """The row of one episode in a table of `schema`; `identity`: the columns of the run
    (evaluation: up to `evaluation_seed`; training: `step`)."""
    turns = episode.turns
    count = max(len(turns), 1)
    columns = identity | {
        "slot": episode.slot,
        "group": episode.group,
        "task_id": episode.task.id,
        "task_type": episode.task.task_type,
        "data_set": episode.task.data_set,
        "success": episode.won,
        "score": episode.score,
        "return": float(episode.episode_return),
        "turns": len(turns),
        "invalid_share": sum(not turn.valid for turn in turns) / count,
        "inadmissible_share": sum(not turn.admissible for turn in turns) / count,
        "prompt_tokens": sum(len(turn.prompt.token_ids) for turn in turns),
        "response_tokens": sum(len(turn.response_ids) for turn in turns),
        "skill_digest": episode.skill_digest,
    }
    return {name: columns[name] for name in schema}


def turn_columns(episode: Episode, turn: Turn) -> dict[str, Any]:
    """What all tokens of a turn share, whoever scored them (columns of `TOKENS`)."""
    return {
        "task_id": episode.task.id,
        "task_type": episode.task.task_type,
        "success": episode.won,
        "turn": turn.moment.index,
        "action": turn.action,
        "valid": turn.valid,
        "admissible": turn.admissible,
        "observation": turn.moment.observation,
        "next_observation": turn.next_observation,
    }


def skill_in(messages: Sequence[Mapping[str, str]]) -> str | None:
    """The privileged text of a chat: what has the role `system`, if anything has."""
    return next((m["content"] for m in messages if m["role"] == "system"), None)


def episodes_frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """An evaluation's episode rows, sorted: the same bytes whatever order they were played in."""
    return pl.DataFrame(list(rows), schema=EPISODES, orient="row").sort(EPISODES_ORDER)


def tokens_frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """An evaluation's token rows, sorted."""
    return token_table(rows).sort(TOKENS_ORDER)


def token_table(rows: Iterable[Mapping[str, Any]], schema: pl.Schema = TOKENS) -> pl.DataFrame:
    """Token rows as a table in their own order; columns that a row lacks are null."""
    return pl.DataFrame([[row.get(name) for name in schema] for row in rows], schema, orient="row")
