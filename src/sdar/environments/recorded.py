"""Recorded cases of an environment, and what a replay of them found.

Which formats an environment recognises is its own business: its package lists them as `recorded`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdar.errors import SdarError

SHOWN = 5
"""Mismatches told in full."""


@dataclass
class ReplayReport:
    """What a replay found. `lines()` is what a person is shown."""

    checked: int = 0
    mismatches: int = 0
    details: list[str] = field(default_factory=list)

    def compare(self, where: str, expected: object, seen: object) -> None:
        """Count one case; tell the first few that differ."""
        self.checked += 1
        if expected != seen:
            self.mismatches += 1
            if len(self.details) < SHOWN:
                self.details.append(f"{where}\n  expected {expected!r}\n  got      {seen!r}")

    def lines(self) -> list[str]:
        hidden = self.mismatches - len(self.details)
        more = [f"... and {hidden} more"] if hidden > 0 else []
        return [*self.details, *more, f"{self.checked} checked, {self.mismatches} mismatches"]


@dataclass(frozen=True)
class RecordedFormat:
    """A kind of file whose cases an environment can replay.

    `replay` is given the cases and the folder of the environment's data, which is None only where
    `needs_data` is false.
    """

    name: str
    recognises: Callable[[Any], bool]
    replay: Callable[[Any, Any], ReplayReport]
    needs_data: bool = True
    known_as: str = ""
    """As the list of all known formats has it; empty: the name."""


def read_cases(file: Path) -> Any:
    """The JSON of a file of recorded cases. Raises `SdarError` when it is not readable."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SdarError(
            f"{file} cannot be read as JSON ({error}): give a file of recorded cases"
        ) from error


def are_records(cases: Any, keys: set[str]) -> bool:
    """A list, not empty, of mappings that have at least these keys."""
    return (
        isinstance(cases, list)
        and bool(cases)
        and all(isinstance(case, dict) and keys <= case.keys() for case in cases)
    )
