"""The episodes of a run: a row each in `episodes.parquet`, written anew at every checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from sdar.files.whole import write_parquet
from sdar.rollout.episode import Episode

EPISODES = pl.Schema(
    {
        "step": pl.Int64,
        "slot": pl.Int64,
        "group": pl.Int64,
        "task_id": pl.String,
        "task_type": pl.String,
        "success": pl.Boolean,
        "return": pl.Float64,
        "turns": pl.Int64,
        "invalid_share": pl.Float64,
        "inadmissible_share": pl.Float64,
        "prompt_tokens": pl.Int64,
        "response_tokens": pl.Int64,
        "skill_digest": pl.String,  # of the student's own prompt; null where it had no skill
    }
)


def episode_row(step: int, episode: Episode) -> dict[str, Any]:
    """The row of one training episode (columns of `EPISODES`)."""
    turns = episode.turns
    return {
        "step": step,
        "slot": episode.slot,
        "group": episode.group,
        "task_id": episode.task.id,
        "task_type": episode.task.task_type,
        "success": episode.won,
        "return": float(episode.episode_return),
        "turns": len(turns),
        "invalid_share": sum(not turn.valid for turn in turns) / len(turns),
        "inadmissible_share": sum(not turn.admissible for turn in turns) / len(turns),
        "prompt_tokens": sum(len(turn.prompt_ids) for turn in turns),
        "response_tokens": sum(len(turn.response_ids) for turn in turns),
        "skill_digest": episode.skill_digest,
    }


class EpisodeLog:
    """The rows of `episodes.parquet`, in memory between checkpoints."""

    def __init__(self, path: Path, before_step: int) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if before_step and path.is_file():
            kept = pl.read_parquet(path).filter(pl.col("step") < before_step)
            self.rows = kept.to_dicts()

    def add(self, step: int, episodes: Sequence[Episode]) -> None:
        self.rows += [episode_row(step, episode) for episode in episodes]

    def write(self) -> None:
        write_parquet(self.path, pl.DataFrame(self.rows, schema=EPISODES, orient="row"))
