"""Recorded cases against the environment: does it still say exactly what was recorded?

Recognises the format from the content: transcripts of ALFWorld games (engine level: actions are
sent as they stand, the admissible list includes `help`), action-parsing cases, the cases of WebShop
and Search-QA, whose replays lie beside their environments, and those of the algorithms.
"""

import contextlib
import json
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from sdar.environments.base import Task
from sdar.environments.parsing import EnvironmentName, parse_action
from sdar.environments.searchqa.replay import are_scoring_cases, replay_scoring
from sdar.errors import SdarError

ARCHIVE = "json_2.1.1.tar.xz"
SHOWN = 5
"""Mismatches told in full."""
PARSING_NAMES: dict[str, EnvironmentName] = {
    "alfworld": "alfworld",
    "webshop": "webshop",
    "searchqa": "search",
}


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


def replay(file: Path, environment: str | None, data: Path | None) -> ReplayReport:
    """Run the cases of `file` against `environment` ("alfworld", "webshop" or "searchqa").

    For ALFWorld transcripts `data` holds `json_2.1.1/` or `json_2.1.1.tar.xz` (unpacked to a
    temporary folder), for WebShop's cases its JSON files; parsing and scoring need no data, cases
    of the algorithms neither data nor environment. Every step is one case, and so is every first
    observation. Raises SdarError when the file is unreadable, of an unknown format, or meant for
    another environment, or when its data are not given.
    """
    cases = _read_cases(file)
    if _are_algorithm_cases(cases):
        return _replay_algorithms(cases)
    if environment is None:
        raise SdarError(f"{file}: say which environment it is for: --environment")
    if isinstance(cases, dict) and any(name in cases for name in PARSING_NAMES.values()):
        return _replay_parsing(file, cases, environment)
    if _are_alfworld_transcripts(cases):
        if environment != "alfworld":
            raise SdarError(f"{file} holds ALFWorld transcripts: use --environment alfworld")
        with _games(cases, _needed(data, file)) as folder:
            return replay_alfworld(cases, folder)
    if are_scoring_cases(cases):
        if environment != "searchqa":
            raise SdarError(f"{file} holds scoring cases of answers: use --environment searchqa")
        return replay_scoring(cases, ReplayReport())
    from sdar.environments.webshop.replay import are_webshop_cases, replay_cases

    if are_webshop_cases(cases):
        if environment != "webshop":
            raise SdarError(f"{file} holds WebShop's cases: use --environment webshop")
        return replay_cases(cases, _needed(data, file))
    raise SdarError(
        f"{file}: not a format that {environment} can replay; known are ALFWorld transcripts "
        "(a list of episodes with game, first_observation, steps), WebShop's transcripts, ranks "
        "and rewards, scoring cases of answers, action-parsing cases, and cases of the algorithms"
    )


def replay_alfworld(
    episodes: Sequence[dict[str, Any]], folder: Path, stock: bool = False
) -> ReplayReport:
    """Replay transcripts; each episode's `game` is a path below `folder`.

    Compared at every step: observation, admissible commands in order (with `help`), won, done.
    """
    from sdar.environments.alfworld.engine.environment import AlfworldEnvironment

    environment = AlfworldEnvironment(stock=stock)
    report = ReplayReport()
    try:
        for number, episode in enumerate(episodes):
            where = f"episode {number} ({episode['game']})"
            task = Task(episode["game"], "", "", "", str(folder / episode["game"]))
            first = environment.reset(task)
            report.compare(
                f"{where}, first observation",
                (episode["first_observation"], episode["first_admissible"], False, False),
                (first.text, list(environment.raw_admissible), first.won, first.done),
            )
            for turn, step in enumerate(episode["steps"]):
                seen = environment.step(step["action"])
                report.compare(
                    f"{where}, step {turn}, action {step['action']!r}",
                    (step["observation"], step["admissible"], step["won"], step["done"]),
                    (seen.text, list(environment.raw_admissible), seen.won, seen.done),
                )
    finally:
        environment.close()
    return report


def _needed(data: Path | None, file: Path) -> Path:
    if data is None:
        raise SdarError(f"{file}: its cases need the environment's data: give the folder by --data")
    return data


def _are_algorithm_cases(cases: Any) -> bool:
    """Without torch, which other cases do not need."""
    return isinstance(cases, dict) and any(
        name.endswith(("_loss", "_advantages", "reference_kl")) for name in cases
    )


def _replay_algorithms(cases: dict[str, Any]) -> ReplayReport:
    """Each case in both precisions, which have their own tolerances."""
    from sdar.algorithms.recorded import FORMULAS, TOLERANCES, largest_difference

    strange = cases.keys() - FORMULAS
    if strange:
        raise SdarError(
            f"no formula is called {', '.join(sorted(strange))}; known: {', '.join(FORMULAS)}"
        )
    report = ReplayReport()
    for name, entries in cases.items():
        for number, case in enumerate(entries):
            for dtype, tolerance in TOLERANCES.items():
                found = largest_difference(name, case, dtype)
                kind = str(dtype).removeprefix("torch.")
                report.compare(
                    f"{name}, case {number} in {kind}",
                    f"a difference of at most {tolerance:g}",
                    f"a difference of {found:g}"
                    if not found <= tolerance
                    else f"a difference of at most {tolerance:g}",
                )
    return report


def _replay_parsing(file: Path, cases: dict[str, Any], environment: str) -> ReplayReport:
    name = PARSING_NAMES.get(environment)
    if name is None or name not in cases:
        raise SdarError(f"{file} has no parsing cases for {environment}; it has {', '.join(cases)}")
    report = ReplayReport()
    for number, case in enumerate(cases[name]):
        parsed = parse_action(case["response"], name)
        report.compare(
            f"case {number}, response {case['response']!r}",
            (case["action"], case["valid"]),
            (parsed.action, parsed.valid),
        )
    return report


def _read_cases(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SdarError(
            f"{file} cannot be read as JSON ({error}): give a file of recorded cases"
        ) from error


def _are_alfworld_transcripts(cases: Any) -> bool:
    keys = {"game", "first_observation", "first_admissible", "steps"}
    return (
        isinstance(cases, list)
        and bool(cases)
        and all(isinstance(case, dict) and keys <= case.keys() for case in cases)
    )


@contextlib.contextmanager
def _games(episodes: Sequence[dict[str, Any]], data: Path) -> Iterator[Path]:
    """The folder that the episodes' games lie below."""
    if (data / "json_2.1.1").is_dir():
        yield data
        return
    if data.name == "json_2.1.1" and data.is_dir():
        yield data.parent
        return
    if not (data / ARCHIVE).is_file():
        raise SdarError(
            f"--data {data}: holds neither json_2.1.1/ nor {ARCHIVE}: give the folder that "
            "alfworld-download filled"
        )
    wanted = {cast(str, episode["game"]) for episode in episodes}
    with tempfile.TemporaryDirectory(prefix="sdar-replay-") as folder:
        try:
            with tarfile.open(data / ARCHIVE) as archive:
                members = [m for m in archive if m.name.removeprefix("./") in wanted]
                archive.extractall(folder, members=members, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise SdarError(
                f"{data / ARCHIVE} cannot be unpacked ({error}): fetch it again"
            ) from error
        yield Path(folder)
