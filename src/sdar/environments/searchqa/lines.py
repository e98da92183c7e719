"""Files of JSON lines that people give: questions and passages."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdar.errors import SdarError


def json_lines(path: Path, what: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of each line that is not blank; `what` a line should hold. A
    file whose name ends in `.gz` is unpacked on the way.

    Raises `SdarError` with the line number for bytes that are not UTF-8 and lines that are not a
    JSON object.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                except ValueError as error:
                    raise SdarError(
                        f"{path}, line {number}: not {what} as JSON ({error}): fix or remove the "
                        "line"
                    ) from error
                if not isinstance(row, dict):
                    raise SdarError(
                        f"{path}, line {number}: expected {what} as a JSON object, found a "
                        f"{type(row).__name__}: fix or remove the line"
                    )
                yield number, row
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SdarError(f"{path} cannot be unpacked ({error}): copy the file again") from error
    except OSError as error:
        raise SdarError(f"{path} cannot be read ({error.strerror}): correct the path") from error
