"""A copy of a finished project is finished as well.

Snakemake compares times: an input younger than an output makes the output again. `cp -r` gives
every file the time at which it was copied, in no order, so everything would be planned again. What
the times were is noted when Snakemake ends; in a copy they are put back, of files whose content is
what it was.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from sdar.files.digest import parts_digest
from sdar.files.whole import read_json, write_json

NOTE = Path(".snakemake") / "sdar-times.json"
STAMP = ".snakemake_timestamp"
"""Snakemake's own, in folders that are outputs: its time is the folder's."""
NOT_COMPARED = ("checkpoints", "chunks")
WHOLE = 1 << 22
"""Bytes up to which a file is read whole; of a larger one, such as a policy, parts of all of it."""
PARTS, PART = 64, 1 << 16


def note_times(root: Path, folders: list[Path]) -> None:
    """Note the times of all files in `folders`, which are relative to the project's `root`."""
    files = read_json(root / NOTE).get("files", {})
    inside = tuple(f"{folder.as_posix()}/" for folder in folders)
    files = {name: noted for name, noted in files.items() if not name.startswith(inside)}
    for folder in folders:
        for path in _files(root / folder):
            noted = [path.stat().st_mtime_ns, _mark(path)]
            files[path.relative_to(root).as_posix()] = noted
    write_json(root / NOTE, {"folder": _identity(root), "files": files}, indent=0)


def restore_times(root: Path) -> int:
    """Where `root` is a copy of the project whose times were noted: put them back. Returns of how
    many files."""
    note = read_json(root / NOTE)
    if not note or note.get("folder") == _identity(root):
        return 0
    restored = 0
    for name, (noted, mark) in note["files"].items():
        path = root / name
        if path.is_file() and path.stat().st_mtime_ns != noted and _mark(path) == mark:
            os.utime(path, ns=(noted, noted))
            restored += 1
    write_json(root / NOTE, note | {"folder": _identity(root)}, indent=0)
    return restored


def _identity(root: Path) -> list[int]:
    status = root.stat()
    return [status.st_dev, status.st_ino]


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in NOT_COMPARED]
        yield from (Path(root, name) for name in names)


def _mark(path: Path) -> str:
    """A digest of the content; of a folder's time stamp, that of the folder."""
    if path.name != STAMP:
        return _sampled(path)
    others = sorted(other for other in _files(path.parent) if other.name != STAMP)
    return parts_digest(
        part
        for other in others
        for part in (str(other.relative_to(path.parent)).encode(), _sampled(other).encode())
    )


def _sampled(path: Path) -> str:
    size = path.stat().st_size
    if size <= WHOLE:
        return parts_digest([path.read_bytes()])

    def parts() -> Iterator[bytes]:
        yield str(size).encode()
        with path.open("rb") as file:
            for number in range(PARTS):
                file.seek(number * (size - PART) // (PARTS - 1))
                yield file.read(PART)

    return parts_digest(parts())
