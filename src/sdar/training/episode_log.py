"""The episodes of a run: `episodes.parquet`, one row for each, written anew at a checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from sdar.files.whole import write_parquet
from sdar.records.tables import TRAINING_EPISODES, episode_row
from sdar.rollout.episode import Episode


class EpisodeLog:
    """The rows of `episodes.parquet`, in memory between checkpoints."""

    def __init__(self, path: Path, before_step: int) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if before_step and path.is_file():
            kept = pl.read_parquet(path).filter(pl.col("step") < before_step)
            self.rows = kept.to_dicts()

    def add(self, step: int, episodes: Sequence[Episode]) -> None:
        self.rows += [episode_row(TRAINING_EPISODES, episode, step=step) for episode in episodes]

    def write(self) -> None:
        frame = pl.DataFrame(self.rows, schema=TRAINING_EPISODES, orient="row")
        write_parquet(self.path, frame)
