"""Where indexes live on disk: built once, found again by content, shared by processes.

An index is a folder `HOME/index/KIND-KEY`; KEY digests the passages and everything else the index
depends on, so a changed file means another folder, and nothing is ever changed in place. It is
built beside its place and renamed: of two processes that build at once, one wins and both use its
folder. `complete.json`, written last, holds the size of every file: a folder cut short by a full
disk or a crash is noticed and built again.
"""

import contextlib
import json
import mmap
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sdar.environments.searchqa.retrieval.passages import passages_digest, read_passages
from sdar.errors import SdarError
from sdar.files.digest import text_digest
from sdar.files.whole import built_folder

COMPLETE = "complete.json"
ABANDONED_SECONDS = 24 * 3600
FORMAT = 1
"""Raised when the layout of the folder changes."""

Build = Callable[[Path, Sequence[str]], None]
"""Writes the search structures for the contents, in this order, into a folder."""


def open_index(passages: Path, home: Path, kind: str, parameters: str, build: Build) -> Path:
    """The folder of the index of `passages`, built first where it is not there yet.

    `parameters` names all that `build` depends on besides the passages. Raises `SdarError` for
    broken passages, and where the folder cannot be written.
    """
    digest = passages_digest(passages)
    key = text_digest(f"{FORMAT} {kind} {parameters} {digest}")[:16]
    folder = home / "index" / f"{kind}-{key}"
    if _is_complete(folder):
        return folder
    with contextlib.ExitStack() as stack:
        try:
            _remove_abandoned(folder)
            building = stack.enter_context(built_folder(folder, is_whole=_is_complete))
        except OSError as error:
            raise SdarError(
                f"{folder.parent}: the index of {passages} cannot be written there "
                f"({error.strerror}); make the folder writable or give another"
            ) from error
        pairs = sorted(read_passages(passages))
        _write_texts(building, pairs)
        build(building, [contents for _, contents in pairs])
        if passages_digest(passages) != digest:
            raise SdarError(f"{passages} changed while it was read: run again once it is complete")
        sizes = {path.name: path.stat().st_size for path in sorted(building.iterdir())}
        (building / COMPLETE).write_text(json.dumps(sizes), encoding="utf-8")
    return folder


def _remove_abandoned(folder: Path) -> None:
    """What a killed process left half-built; younger ones may be another's work."""
    for left in folder.parent.glob(f".{folder.name}.*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(left)


def _is_complete(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _write_texts(folder: Path, pairs: Sequence[tuple[str, str]]) -> None:
    """Texts end to end and where each begins: `PassageTexts` reads them back."""
    for name, column in (("ids", 0), ("contents", 1)):
        ends = [0]
        with (folder / f"{name}.utf8").open("wb") as file:
            for pair in pairs:
                ends.append(ends[-1] + file.write(pair[column].encode("utf-8")))
        np.save(folder / f"{name}.offsets.npy", np.asarray(ends, dtype=np.int64))


class _MappedTexts:
    """A sequence of texts on disk; a text is read when it is asked for."""

    def __init__(self, folder: Path, name: str) -> None:
        # A plain view: numpy's memmap class is slow to slice; the memory stays mapped.
        self._offsets = np.asarray(np.load(folder / f"{name}.offsets.npy", mmap_mode="r"))
        with (folder / f"{name}.utf8").open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, number: int) -> str:
        start, end = self._offsets[number : number + 2].tolist()
        return self._bytes[start:end].decode("utf-8")


class PassageTexts:
    """Ids and contents of an index, by passage number. Numbers are in the order of the ids, so
    that sorting by number is sorting by id."""

    def __init__(self, folder: Path) -> None:
        self.ids = _MappedTexts(folder, "ids")
        self.contents = _MappedTexts(folder, "contents")

    def __len__(self) -> int:
        return len(self.ids)
