"""Recorded transcripts of ALFWorld games, engine level: actions are sent as they stand, and the
admissible list includes `help`."""

import contextlib
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from sdar.environments.alfworld.config import GAMES_FOLDER
from sdar.environments.base import Task
from sdar.environments.recorded import RecordedFormat, ReplayReport, are_records
from sdar.errors import SdarError

ARCHIVE = f"{GAMES_FOLDER}.tar.xz"


def are_transcripts(cases: Any) -> bool:
    return are_records(cases, {"game", "first_observation", "first_admissible", "steps"})


def replay_cases(episodes: Sequence[dict[str, Any]], data: Path) -> ReplayReport:
    """Replay transcripts on the games in `data`, a folder or an archive in it."""
    with _games(episodes, data) as folder:
        return replay_transcripts(episodes, folder)


def replay_transcripts(
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


@contextlib.contextmanager
def _games(episodes: Sequence[dict[str, Any]], data: Path) -> Iterator[Path]:
    """The folder that the episodes' games lie below."""
    if (data / GAMES_FOLDER).is_dir():
        yield data
        return
    if data.name == GAMES_FOLDER and data.is_dir():
        yield data.parent
        return
    if not (data / ARCHIVE).is_file():
        raise SdarError(
            f"--data {data}: holds neither {GAMES_FOLDER}/ nor {ARCHIVE}: give the folder that "
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


FORMATS = (
    RecordedFormat(
        "ALFWorld transcripts",
        are_transcripts,
        replay_cases,
        known_as="ALFWorld transcripts (a list of episodes with game, first_observation, steps)",
    ),
)
