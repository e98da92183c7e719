"""The tables of episodes and of response tokens: one row for each. Pure.

Their schemas are the contract between those who play, in training or evaluation, and comparison,
pages and report.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from sdar.files.tables import sorted_by
from sdar.rollout.episode import Episode, Turn

_EPISODE = {
    "method": pa.large_string(),
    "seed": pa.int64(),  # run seed
    "with_skill": pa.bool_(),  # the skill was in the prompt that was played with
    "panel": pa.large_string(),
    "evaluation_seed": pa.int64(),
    "step": pa.int64(),  # of training
    "slot": pa.int64(),  # in the step's batch
    "group": pa.int64(),  # episodes of one group play one task
    "task_id": pa.large_string(),
    "task_type": pa.large_string(),
    "data_set": pa.large_string(),  # "" where the panel is one
    "success": pa.bool_(),
    "score": pa.float64(),  # the environment's own measure, 0-1; null where success is all
    "return": pa.float64(),
    "turns": pa.int64(),
    "invalid_share": pa.float64(),  # turns whose response does not parse
    "inadmissible_share": pa.float64(),  # turns whose action the environment does not offer
    "prompt_tokens": pa.int64(),
    "response_tokens": pa.int64(),
    "skill_digest": pa.large_string(),  # of the prompt's own skill; null where none was shown
}
_OF_TRAINING = ("step", "slot", "group", "prompt_tokens")
_OF_EVALUATION = (
    *("method", "seed", "with_skill", "panel", "evaluation_seed"),
    *("data_set", "score"),
)
EPISODES = pa.schema({name: kind for name, kind in _EPISODE.items() if name not in _OF_TRAINING})
"""Of an evaluation."""
EPISODES_ORDER = ["method", "seed", "with_skill", "panel", "evaluation_seed", "task_id"]
TRAINING_EPISODES = pa.schema(
    {name: kind for name, kind in _EPISODE.items() if name not in _OF_EVALUATION}
)

TOKENS = pa.schema(
    {
        "method": pa.large_string(),
        "seed": pa.int64(),
        "with_skill": pa.bool_(),
        "panel": pa.large_string(),  # or `train`
        "evaluation_seed": pa.int64(),
        "step": pa.int64(),  # of training; null in evaluation
        "episode": pa.large_string(),
        "task_id": pa.large_string(),
        "task_type": pa.large_string(),
        "success": pa.bool_(),
        "turn": pa.int64(),
        "position": pa.int64(),  # in the response
        "token": pa.large_string(),  # the text this token adds to the response
        "token_id": pa.int64(),
        "token_class": pa.large_string(),  # see token_classes.py
        "student_log_prob": pa.float64(),
        "teacher_log_prob": pa.float64(),  # same weights, told the skill
        "reference_log_prob": pa.float64(),  # the frozen policy of the KL term
        "old_log_prob": pa.float64(),  # as it was sampled
        "gap": pa.float64(),  # teacher - student, nats
        "gate": pa.float64(),
        "advantage": pa.float64(),
        "action": pa.large_string(),
        "valid": pa.bool_(),
        "admissible": pa.bool_(),
        "expert_action": pa.large_string(),  # of the expert, who knows the world's habits
        "student_greedy_action": pa.large_string(),
        "teacher_greedy_action": pa.large_string(),
        "observation": pa.large_string(),  # shown before the turn
        "next_observation": pa.large_string(),
        "student_prompt": pa.large_string(),
        "teacher_prompt": pa.large_string(),
        "skill": pa.large_string(),  # the privileged text's name, digest and words
        "skill_digest": pa.large_string(),
        "skill_text": pa.large_string(),
    }
)
"""Of training and evaluation alike: what a stage or a method does not have is null."""
TOKENS_ORDER = ["with_skill", "panel", "evaluation_seed", "episode", "turn", "position"]
TRAINING_TOKENS = TOKENS.append(pa.field("return", pa.float64()))


def episode_row(schema: pa.Schema, episode: Episode, **identity: Any) -> dict[str, Any]:
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
    return {name: columns[name] for name in schema.names}


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


def episodes_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """An evaluation's episode rows, sorted: the same bytes whatever order they were played in."""
    return sorted_by(pa.Table.from_pylist(list(rows), schema=EPISODES), EPISODES_ORDER)


def tokens_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """An evaluation's token rows, sorted."""
    return sorted_by(token_table(rows), TOKENS_ORDER)


def token_table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema = TOKENS) -> pa.Table:
    """Token rows as a table in their own order; columns that a row lacks are null."""
    return pa.Table.from_pylist(list(rows), schema=schema)
