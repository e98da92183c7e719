"""The `tasks` stage: generate the games (or list real ALFWorld's), and read them back.

`layout.tasks` then holds `tasks.jsonl` (one task a line, locations relative to the folder, or
absolute for real data) and, for generated games, `json_2.1.1/`, `home.json` and `games.md`.
"""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from sdar.config.alfworld import AlfworldConfig
from sdar.config.models import ExperimentConfig
from sdar.config.paths import Layout
from sdar.environments.alfworld.generator import SPLITS, Request, make_games
from sdar.environments.alfworld.home import Home
from sdar.environments.base import Task
from sdar.errors import SdarError

_SENTENCE = re.compile(r"Your task is to: (.*?)(?:\\n|\"|\n)")


def make_tasks(config: ExperimentConfig, layout: Layout) -> None:
    """Write `layout.tasks`, all or nothing: it is built beside its place and renamed at the end."""
    target = layout.tasks
    target.parent.mkdir(parents=True, exist_ok=True)
    building = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    try:
        _build(config, building)
        shutil.rmtree(target, ignore_errors=True)
        building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _build(config: ExperimentConfig, folder: Path) -> None:
    environment = config.environment
    if environment.data is not None:
        splits = dict.fromkeys(("train", *config.evaluation.panels))
        tasks = list(find_tasks(environment.data, environment.task_types, splits))
        source = "real ALFWorld data"
    else:
        home = Home.draw(environment.home, environment.habit, environment.size)
        tasks = make_games(requests(environment, home, folder), workers=_workers())
        home.write(folder / "home.json")
        source = (
            f"generated, size {environment.size}, seed {environment.seed}, "
            f"home {environment.home}, habit {environment.habit}"
        )
    lines = (json.dumps(task.as_dict()) + "\n" for task in tasks)
    (folder / "tasks.jsonl").write_text("".join(lines))
    (folder / "games.md").write_text(counts_table(tasks, source))


def requests(environment: AlfworldConfig, home: Home, folder: Path) -> list[Request]:
    """One request a game, split by split."""
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
    data: Path, task_types: Iterable[str], splits: Iterable[str] = SPLITS
) -> Iterator[Task]:
    """The games of these splits in a folder as `alfworld-download` leaves it.

    As in ALFWorld itself, unsolvable games and paths with `movable` or `Sliced` are left out.
    Raises SdarError naming the folder or file when something is missing or unreadable.
    """
    wanted = set(task_types)
    root = data.expanduser().resolve() / "json_2.1.1"
    splits = tuple(splits)
    for split in splits:
        if not (root / split).is_dir():
            raise SdarError(
                f"environment.data: {root / split} does not exist; run `alfworld-download` and "
                "set environment.data to the folder it fills (it contains json_2.1.1/), or to null "
                "to generate games"
            )
    for split in splits:
        paths = sorted((root / split).glob("*/*/game.tw-pddl"))
        found = 0
        for path in paths:
            name = path.parent.relative_to(root).as_posix()
            if "movable" in name or "Sliced" in name:
                continue
            try:
                game = json.loads(path.read_text())
                task_type = json.loads(path.with_name("traj_data.json").read_text())["task_type"]
                sentence = _SENTENCE.search(game["grammar"])
                solvable = game.get("solvable", False)
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise SdarError(
                    f"{path.parent} is not a readable ALFWorld game ({error!r}): fetch it again "
                    "with `alfworld-download --force`"
                ) from error
            if not solvable or task_type not in wanted:
                continue
            if sentence is None:
                raise SdarError(f"{path}: the grammar names no task; fetch the game again")
            found += 1
            yield Task(name, split, task_type, sentence.group(1).strip(), str(path))
        if not found:
            raise SdarError(
                f"{root / split} holds no solvable game of the types in environment.task_types: "
                "check environment.data and environment.task_types"
            )


def counts_table(tasks: list[Task], source: str) -> str:
    """Games by split and task type, as markdown."""
    types = list(dict.fromkeys(task.task_type for task in tasks))
    counts = Counter((task.split, task.task_type) for task in tasks)
    rows = [
        f"# Games: {source}",
        "",
        f"| split | games | {' | '.join(types)} |",
        f"|---|---|{'---|' * len(types)}",
    ]
    for split in dict.fromkeys(task.split for task in tasks):
        cells = [str(counts[split, task_type]) for task_type in types]
        total = sum(task.split == split for task in tasks)
        rows.append(f"| {split} | {total} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def read_tasks(layout: Layout, split: str) -> list[Task]:
    """The tasks of a split in their fixed order, locations resolved."""
    path = layout.tasks / "tasks.jsonl"
    try:
        tasks = [Task(**json.loads(line)) for line in path.read_text().splitlines()]
    except (OSError, ValueError, TypeError) as error:
        raise SdarError(
            f"{path} cannot be read ({error}): run `sdar tasks` to make the games"
        ) from error
    chosen = [task for task in tasks if task.split == split]
    if not chosen:
        known = ", ".join(dict.fromkeys(task.split for task in tasks))
        raise SdarError(f"{path} has no split '{split}': it has {known}")
    return [replace(task, location=str(layout.tasks / task.location)) for task in chosen]


def read_home(layout: Layout) -> Home | None:
    """The home the games are set in; None for real ALFWorld data, which has none."""
    path = layout.tasks / "home.json"
    return Home.read(path) if path.exists() else None


def _workers() -> int:
    return max(1, min(2, os.cpu_count() or 1))
