"""ALFWorld's tasks: generate the games, or list the real ones.

Generated games lie in `json_2.1.1/` of the tasks' folder, and `home.json` says whose they are.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sdar.environments.alfworld.config import GAMES_FOLDER, AlfworldConfig
from sdar.environments.alfworld.engine.loader import load_tasks
from sdar.environments.alfworld.observed import parse_instruction
from sdar.environments.alfworld.world.generator import SPLITS, Request
from sdar.environments.alfworld.world.home import Home
from sdar.environments.alfworld.world.makers import make_games
from sdar.environments.base import Task
from sdar.errors import SdarError

log = logging.getLogger("sdar.environments")
HOME_FILE = "home.json"


def make_tasks(
    environment: AlfworldConfig, panels: Sequence[str], folder: Path
) -> tuple[list[Task], str]:
    """Fill `folder`; the tasks, and where they come from."""
    if environment.data is not None:
        splits = dict.fromkeys(("train", *panels))
        tasks = list(find_tasks(environment.data, environment.task_types, splits))
        _warn_of_sentences(tasks)
        return tasks, "real ALFWorld data"
    home = Home.draw(environment.home, environment.habit, environment.size)
    tasks = make_games(requests(environment, home, folder), _workers(), environment.worker_timeout)
    home.write(folder / HOME_FILE)
    source = (
        f"games, generated, size {environment.size}, seed {environment.seed}, "
        f"home {environment.home}, habit {environment.habit}"
    )
    return tasks, source


def requests(environment: AlfworldConfig, home: Home, folder: Path) -> list[Request]:
    """One request per game, split by split."""
    counts = environment.games.model_dump()
    return [
        Request(
            seed=environment.seed,
            split=split,
            index=index,
            home=home,
            task_types=tuple(environment.task_types),
            train_games=environment.games.train,
            folder=folder,
        )
        for split in SPLITS
        for index in range(counts[split])
    ]


def find_tasks(
    data: Path, task_types: Sequence[str], splits: Iterable[str] = SPLITS
) -> Iterator[Task]:
    """The games of these splits in a folder as `alfworld-download` leaves it.

    Raises SdarError naming the folder or file when something is missing or unreadable.
    """
    data = data.resolve()
    splits = tuple(splits)
    for split in splits:
        if not (data / GAMES_FOLDER / split).is_dir():
            raise SdarError(
                f"environment.data: {data / GAMES_FOLDER / split} does not exist; run "
                "`alfworld-download` and set environment.data to the folder it fills (it contains "
                "json_2.1.1/), or to null to generate games"
            )
    for split in splits:
        yield from load_tasks(data, split, task_types)


def _warn_of_sentences(tasks: Sequence[Task]) -> None:
    """Tasks in people's own words can be played, but no expert says what it would do."""
    strange = []
    for task in tasks:
        try:
            parse_instruction(task.instruction)
        except SdarError:
            strange.append(task)
    if strange:
        log.warning(
            "environment.data: the tasks of %d of %d games follow none of ALFWorld's sentence "
            "templates (%s: %s), so the report cannot compare with the expert there",
            *(len(strange), len(tasks), strange[0].id, strange[0].instruction[:80]),
        )


def read_home(folder: Path) -> Home | None:
    """The home the games in `folder` are set in; None for real ALFWorld data, which has none."""
    path = folder / HOME_FILE
    return Home.read(path) if path.exists() else None


def _workers() -> int:
    return max(1, min(2, os.cpu_count() or 1))
