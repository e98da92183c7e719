"""Output that ends no command, whatever its encoding and whoever reads it."""

import io
import os
import sys
from typing import TextIO


def prepare_streams() -> None:
    """A character that the encoding lacks is shown as its code (`\\u2013`); one that is typed and
    cannot be read becomes a question mark. Streams that are closed take what is written."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")


def flush_streams() -> None:
    """Write what is left. Where nobody reads it any more (`| head`), that is no error: Python would
    say so in its last moment, when nothing can catch it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _forget(stream)


def _forget(stream: TextIO) -> None:
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):
        return
