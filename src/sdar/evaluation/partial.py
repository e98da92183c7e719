"""Finished chunks of an evaluation, kept until all are there.

A chunk is two parquet files; the episodes are renamed into place last and mark it as finished.
`key.json` says what the chunks belong to (policy, tasks, settings): chunks of anything else are
thrown away, so that no result mixes two policies.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from sdar.errors import SdarError


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
            write_atomically(path, lambda target: target.write_text(text, "utf-8"))

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


def write_parquet(path: Path, frame: pl.DataFrame) -> None:
    """Write a frame so that the file is either the old one or the whole new one."""
    write_atomically(path, lambda target: frame.write_parquet(target, compression="zstd"))


def write_text(path: Path, text: str) -> None:
    """Write text so that the file is either the old one or the whole new one."""
    write_atomically(path, lambda target: target.write_text(text, "utf-8"))


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in its place.

    Raises SdarError when it cannot be written (no space, no permission); `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise SdarError(
            f"{path}: cannot be written ({error.strerror or error}); free space or mend the "
            "folder's permissions and run the same command again: what is finished is kept"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
