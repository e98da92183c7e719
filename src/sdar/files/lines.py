"""A JSON-lines file that survives being killed: each line is on disk before the run goes on."""

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sdar.errors import SdarError
from sdar.files.whole import write_bytes


def encode(step: int, values: Mapping[str, Any]) -> tuple[str, int]:
    """Return the line for one step and how many of its values were not finite (written as null).

    `step` comes first, the other keys are sorted, floats have their shortest exact form: equal
    values give equal bytes. Scalars of numpy and torch become numbers.
    """
    if "step" in values:
        raise ValueError("'step' is the record's own key; leave it out of the values")
    record: dict[str, Any] = {"step": int(step)}
    lost = 0
    for key in sorted(values):
        value = values[key]
        value = value.item() if hasattr(value, "item") else value
        if isinstance(value, float) and not math.isfinite(value):
            value, lost = None, lost + 1
        record[key] = value
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n", lost


def append(path: Path, line: str) -> None:
    """Append one line and force it to disk; on failure the file keeps its earlier lines."""
    data = line.encode()
    try:
        with path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                if file.write(data) != len(data):
                    raise OSError("the line was written in part only")
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(before)
                raise
    except OSError as error:
        raise SdarError(
            f"{path}: cannot append a record ({error}); free some space or fix the permissions, "
            "then run the same command again: it continues where it stopped"
        ) from None


def read(path: Path) -> list[dict[str, Any]]:
    """All complete records; a half-written last line is left out, a missing file is empty."""
    return [record for record, _ in _complete(path)]


def steps(kept: Iterable[bytes]) -> list[int]:
    """The steps of complete lines."""
    return [json.loads(line)["step"] for line in kept]


def sound(path: Path, before: int) -> list[bytes]:
    """The lines of the steps before `before`, as they are, up to the first that is damaged; none
    where the file is missing or cannot be read."""
    kept = []
    try:
        for record, line in _complete(path):
            if record["step"] < before:
                kept.append(line)
    except (OSError, SdarError):
        pass
    return kept


def truncate(path: Path, step: int) -> int:
    """Keep the records before `step`, atomically; return how many remain."""
    if not path.exists():
        return 0
    if step <= 0:  # whatever it holds
        write_bytes(path, b"")
        return 0
    kept = [line for record, line in _complete(path) if record["step"] < step]
    write_bytes(path, b"".join(kept))
    return len(kept)


def _complete(path: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        last = number == len(lines)
        if last and not line.endswith(b"\n"):
            return
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
            if type(record.get("step")) is not int:
                raise ValueError("it has no step")
        except (ValueError, RecursionError) as error:
            # A machine that lost power can leave a last line of zeros; anything earlier is damage.
            if last:
                return
            raise SdarError(
                f"{path}: line {number} is not a JSON object with a step ({error}); restore the "
                "file, or remove the run's folder to start the run again"
            ) from None
        yield record, line
