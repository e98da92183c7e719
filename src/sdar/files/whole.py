"""Files and folders that are whole or not there: written beside their place, renamed into it.

A reader sees the old content or the new, never a part, whatever is killed or full meanwhile.
"""

import contextlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdar.errors import SdarError

if TYPE_CHECKING:
    import pyarrow as pa  # takes a while, and few of those who write files write tables

REMEDY = (
    "free some space or fix the folder's permissions, then run the same command again: what is "
    "finished is kept"
)


def write_file(path: Path, fill: Callable[[Path], Any]) -> None:
    """Let `fill` write a temporary file beside `path`, force it to disk, put it in its place.

    Makes the folder. Raises `SdarError` when it cannot be written (no space, no permission);
    `path` stays as it was.
    """
    temporary = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fill(temporary)
        _force_to_disk(temporary)
        temporary.replace(path)
    except OSError as error:
        raise _unwritten(path, error, REMEDY) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """`write_file` of bytes."""
    write_file(path, lambda temporary: temporary.write_bytes(data))


def write_text(path: Path, text: str) -> None:
    """`write_file` of text as UTF-8, line ends as they are. Half a surrogate pair, which JSON may
    hold, is written as its code."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any, *, indent: int = 1, default: Any = None) -> None:
    """`write_file` of a value as JSON for people: indented, keys in their order, a last newline.
    Numbers that are not finite are null."""
    text = json.dumps(
        finite(value), indent=indent, ensure_ascii=False, default=default, allow_nan=False
    )
    write_text(path, text + "\n")


def finite(value: Any) -> Any:
    """A JSON value with null in the place of NaN and infinity, which JSON cannot say."""
    if isinstance(value, Mapping):
        return {key: finite(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inside) for inside in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty when the file is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_parquet(path: Path, table: "pa.Table") -> None:
    """`write_file` of a table."""
    write_file(path, lambda temporary: fill_parquet(temporary, table))


def fill_parquet(path: Path, table: "pa.Table") -> None:
    """Write a table into a file that is put in its place later. Raises OSError."""
    import pyarrow.parquet as pq

    # Least and greatest of whole prompts would be half the file, and nothing reads them.
    pq.write_table(table, path, compression="zstd", write_statistics=False)


def write_folder(
    target: Path,
    fill: Callable[[Path], None],
    *,
    remedy: str = REMEDY,
    failures: tuple[type[Exception], ...] = (),
) -> None:
    """Let `fill` write a folder, force it to disk, and put it in its place.

    For a target that one process writes: what a killed one left is removed. Raises
    `SdarError`, which ends with `remedy`, on an OSError or one of `failures` (what `fill`'s
    libraries raise when the disk is full); `target` is then what it was.
    """
    expected: tuple[type[Exception], ...] = (OSError, *failures)
    try:
        for leftover in target.parent.glob(f".{target.name}.*/"):
            shutil.rmtree(leftover)
        with built_folder(target) as building:
            fill(building)
            for path in [*building.rglob("*"), building]:
                _force_to_disk(path)
        _force_to_disk(target.parent)
    except Exception as error:
        # Libraries in Rust raise a plain Exception, with the system's number in its text.
        if not isinstance(error, expected) and "(os error " not in str(error):
            raise
        raise _unwritten(target, error, remedy) from error


@contextlib.contextmanager
def built_folder(
    target: Path, is_whole: Callable[[Path], bool] = lambda path: False
) -> Iterator[Path]:
    """A new folder to fill, which then takes the place of `target`; after an error it is gone.

    Any number of processes may build one target at once: where `is_whole(target)`, another was
    first and its folder stays, otherwise the last one's does. Nothing is forced to disk. Raises
    `SdarError` where the target cannot be replaced, else what was raised inside.
    """
    building = _beside(target)
    building.mkdir(parents=True)
    try:
        yield building
        _put(building, target, is_whole)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _put(building: Path, target: Path, is_whole: Callable[[Path], bool], tries: int = 3) -> None:
    """Rename a folder into its place; what was there is moved aside first, which only one process
    can do, and comes back where that fails."""
    aside = building.with_name(f"{building.name}.replaced")
    for left in reversed(range(tries)):
        if target.exists():
            if is_whole(target):
                return
            with contextlib.suppress(OSError):
                target.rename(aside)
        try:
            building.rename(target)
        except OSError as error:
            with contextlib.suppress(OSError):
                aside.rename(target)
            if not left:
                raise SdarError(
                    f"{target} cannot be replaced ({_reason(error)}): remove it and run again"
                ) from error
        else:
            break
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def _force_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritten(path: Path, error: Exception, remedy: str) -> SdarError:
    return SdarError(f"{path}: cannot be written ({_reason(error)}); {remedy}")


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
