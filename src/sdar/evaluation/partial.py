"""Finished chunks of an evaluation, kept until all are there.

A chunk is two parquet files and, written last, a third with their digests, which marks it as
finished. `key.json` says what the chunks belong to (policy, tasks, settings): chunks of anything
else are thrown away, so that no result mixes two policies. So are those that are not what was
written.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from sdar.config.stages import changed
from sdar.files.digest import file_digest
from sdar.files.tables import load_table
from sdar.files.whole import read_json, write_json, write_parquet, write_text

log = logging.getLogger("sdar.evaluation")


class Partial:
    """The folder of finished chunks."""

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.folder = folder
        text = json.dumps(key, sort_keys=True, indent=1)
        path = folder / "key.json"
        if folder.is_dir() and not (path.is_file() and path.read_bytes() == text.encode()):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_text(path, text)

    def computed_with(self, rounding: Mapping[str, Any]) -> list[dict[str, Any]]:
        """How the sums of the chunks are rounded, one entry per span: `from_chunk` says how many
        chunks were there when it began; `rounding` holds for those that are missing now."""
        path = self.folder / "computed_with.json"
        saved = read_json(path).get("spans")
        spans: list[dict[str, Any]] = saved if isinstance(saved, list) else []
        if not all(isinstance(span, dict) and "from_chunk" in span for span in spans):
            spans = []
        done = len(list(self.folder.glob("*.done.json")))
        if not spans or spans[-1] != {"from_chunk": spans[-1]["from_chunk"], **rounding}:
            before = {k: v for k, v in (spans or [{}])[-1].items() if k != "from_chunk"}
            if done and before:
                log.warning(
                    "%d chunks are kept that were computed with %s: sums of the others are rounded "
                    "differently, and provenance.json says so",
                    done,
                    changed(before, rounding),
                )
            spans.append({"from_chunk": done, **rounding})
            write_json(path, {"spans": spans})
        return spans

    def has(self, name: str) -> bool:
        """Whether a chunk is finished and as it was written; warns where it is not any more."""
        written = read_json(self._done(name))
        if not written:
            return False
        for path in (self._tokens(name), self._episodes(name)):
            try:
                if file_digest(path) == written.get(path.name):
                    continue
                reason = "it is not what was written"
            except OSError as error:
                reason = error.strerror or str(error)
            log.warning("%s: %s; its episodes are played again", path, reason)
            return False
        return True

    def write(self, name: str, episodes: pa.Table, tokens: pa.Table) -> None:
        write_parquet(self._tokens(name), tokens)
        write_parquet(self._episodes(name), episodes)
        paths = self._tokens(name), self._episodes(name)
        write_json(self._done(name), {path.name: file_digest(path) for path in paths})

    def read(self, name: str) -> tuple[pa.Table, pa.Table]:
        return load_table(self._episodes(name)), load_table(self._tokens(name))

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def _done(self, name: str) -> Path:
        return self.folder / f"{name}.done.json"

    def _episodes(self, name: str) -> Path:
        return self.folder / f"{name}.episodes.parquet"

    def _tokens(self, name: str) -> Path:
        return self.folder / f"{name}.tokens.parquet"
