"""What an acceptance run finds, one JSON object a line, on the disk as soon as it is known.

A *check* has passed or failed; a *note* is a number to keep. A section that is cut off has left all
that it had found.
"""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE = "acceptance.jsonl"


@dataclass(frozen=True)
class Finding:
    """One line. `passed` is None for a note; `limit` says what a check demands."""

    section: str
    name: str
    value: Any
    passed: bool | None = None
    limit: str = ""
    seconds: float = 0.0
    """Since the section began."""


class Record:
    """Where a section writes what it finds."""

    def __init__(self, folder: Path, section: str) -> None:
        self.path = folder / FILE
        self.section = section
        self.start = time.monotonic()

    def note(self, name: str, value: Any) -> None:
        """Keep a number."""
        self._write(name, value, None, "")

    def check(self, name: str, value: Any, passed: bool, limit: str) -> None:
        """Keep a number that must be within its limit."""
        self._write(name, value, bool(passed), limit)

    def at_most(self, name: str, value: float, limit: float) -> None:
        """A number that must not be larger. NaN fails."""
        self.check(name, value, value <= limit, f"<= {limit:g}")

    def equal(self, name: str, value: Any, expected: Any) -> None:
        """Something that must be what it is compared with."""
        self.check(name, value, value == expected, f"= {expected}")

    def _write(self, name: str, value: Any, passed: bool | None, limit: str) -> None:
        seconds = round(time.monotonic() - self.start, 1)
        finding = Finding(self.section, name, value, passed, limit, seconds)
        verdict = {None: "    ", True: "ok  ", False: "FAIL"}[passed]
        print(f"{verdict} {self.section}: {name}: {shown(value)} {limit}".rstrip(), flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(finding)) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_findings(folder: Path) -> list[Finding]:
    """All lines, in order; a line cut short by a power failure is left out."""
    path = folder / FILE
    findings = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            findings.append(Finding(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return findings


def shown(value: Any) -> str:
    """Short, for a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
