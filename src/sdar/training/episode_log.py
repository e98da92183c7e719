"""The episodes of a run: `episodes.parquet`, one row for each, written anew at a checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from sdar.files.tables import load_table
from sdar.files.whole import fill_parquet, write_parquet
from sdar.records.tables import TRAINING_EPISODES, episode_row
from sdar.rollout.episode import Episode


class EpisodeLog:
    """The rows of `episodes.parquet`, in memory between checkpoints.

    A run that goes on takes them from its checkpoint, which holds them as `keep` wrote them.
    """

    def __init__(self, path: Path, checkpoint: Path | None) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if checkpoint is not None:
            self.rows = load_table(checkpoint / path.name).to_pylist()

    def add(self, step: int, episodes: Sequence[Episode]) -> None:
        self.rows += [episode_row(TRAINING_EPISODES, episode, step=step) for episode in episodes]

    def write(self) -> None:
        write_parquet(self.path, self._table())

    def keep(self, folder: Path) -> None:
        """Write a copy into a new checkpoint."""
        fill_parquet(folder / self.path.name, self._table())

    def _table(self) -> pa.Table:
        return pa.Table.from_pylist(self.rows, schema=TRAINING_EPISODES)
