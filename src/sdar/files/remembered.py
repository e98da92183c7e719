"""Digests of people's data, which may be large: of the content, and remembered.

A digest is remembered with the path, size, times and inode of its file, in the user's cache, and a
file is read again when any of them has changed. So a plan costs one look at each file.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from sdar.errors import SdarError
from sdar.files.digest import file_digest, parts_digest
from sdar.files.whole import read_json, write_text

SETTLED_SECONDS = 2.0
"""A younger file may change again within the same tick of its file system's clock."""
MOST_REMEMBERED = 200_000


def user_cache() -> Path:
    """Where what belongs to no experiment is kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sdar"


def content_digest(paths: Iterable[Path]) -> str:
    """Of the bytes of all these files and of all files below these folders, and of their names from
    the given path's own on: not of where they lie. What is hidden, or not there, does not count.

    Raises `SdarError` for a file that cannot be read.
    """
    try:
        store = user_cache() / "digests.json"
    except RuntimeError:  # a user without a home folder, as in some containers
        store = None
    known, parts, new = {} if store is None else read_json(store), [], {}
    for name, path in _files(paths):
        try:
            status = path.stat()
            mark = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
            key = str(path.absolute())
            before = known.get(key)
            if isinstance(before, list) and before[:-1] == mark:
                digest = str(before[-1])
            else:
                digest = file_digest(path)
                if time.time() - status.st_mtime > SETTLED_SECONDS:
                    new[key] = [*mark, digest]
        except OSError as error:
            raise SdarError(
                f"{path} cannot be read ({error.strerror}): make it readable, or remove it"
            ) from None
        parts += [name.encode(errors="surrogateescape"), b"\0", digest.encode(), b"\n"]
    if new and store is not None:
        kept = list((known | new).items())[-MOST_REMEMBERED:]
        # Without a cache the files are read again next time.
        with suppress(SdarError):
            write_text(store, json.dumps(dict(kept)))
    return parts_digest(parts)


def _files(paths: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """(name, path) of every file, in an order that is the same everywhere."""
    for path in paths:
        if not path.is_dir():
            if path.exists():
                yield path.name, path
            continue
        inside = []
        for root, folders, names in os.walk(path):
            folders[:] = [name for name in folders if not name.startswith(".")]
            inside += [Path(root, name) for name in names if not name.startswith(".")]
        for file in sorted(inside):
            yield f"{path.name}/{file.relative_to(path).as_posix()}", file
