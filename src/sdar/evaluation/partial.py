"""Finished chunks of an evaluation, kept until all are there.

A chunk is two parquet files; the episodes are renamed into place last and mark it as finished.
`key.json` says what the chunks belong to (policy, tasks, settings): chunks of anything else are
thrown away, so that no result mixes two policies.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from sdar.files.whole import write_json, write_parquet, write_text


class Partial:
    """The folder of finished chunks."""

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.folder = folder
        text = json.dumps(key, sort_keys=True, indent=1)
        path = folder / "key.json"
        if folder.is_dir() and not (path.is_file() and path.read_text("utf-8") == text):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_text(path, text)

    def computed_with(self, rounding: Mapping[str, Any]) -> list[dict[str, Any]]:
        """How the sums of the chunks are rounded, one entry per span: `from_chunk` says how many
        chunks were there when it began; `rounding` holds for those that are missing now."""
        path = self.folder / "computed_with.json"
        spans: list[dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.is_file() else []
        done = len(list(self.folder.glob("*.episodes.parquet")))
        if not spans or spans[-1] != {"from_chunk": spans[-1]["from_chunk"], **rounding}:
            spans.append({"from_chunk": done, **rounding})
            write_json(path, spans)
        return spans

    def has(self, name: str) -> bool:
        return self._episodes(name).is_file()

    def write(self, name: str, episodes: pl.DataFrame, tokens: pl.DataFrame) -> None:
        write_parquet(self._tokens(name), tokens)
        write_parquet(self._episodes(name), episodes)

    def read(self, name: str) -> tuple[pl.DataFrame, pl.DataFrame]:
        return pl.read_parquet(self._episodes(name)), pl.read_parquet(self._tokens(name))

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def _episodes(self, name: str) -> Path:
        return self.folder / f"{name}.episodes.parquet"

    def _tokens(self, name: str) -> Path:
        return self.folder / f"{name}.tokens.parquet"
