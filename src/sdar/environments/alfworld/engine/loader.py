"""Tasks from ALFWorld's folder layout, real (`alfworld-download`) or generated: one reader.

`<data>/json_2.1.1/<split>/<task_type>-<Object>-<None>-<Receptacle>-<scene>/trial_T.../` holds
`game.tw-pddl` and `traj_data.json`. As ALFWorld does, games that are not marked solvable and paths
with `movable` or `Sliced` are left out.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sdar.environments.alfworld.config import GAMES_FOLDER
from sdar.environments.base import Task
from sdar.errors import SdarError
from sdar.files.digest import parts_digest

GAME_FILE = "game.tw-pddl"
_TASK_TYPE = re.compile(rb'"task_type":\s*"([a-z_]+)"')
# The sentence sits in a JSON string of the grammar, itself a JSON string of the file: it ends at
# the closing (escaped) quote.
_SENTENCE = re.compile(rb"Your task is to: ([^\"\\]*)")
_NAME = re.compile(r"\{[^}]*\}|\[[^\]]*\]")
_COMMAND = re.compile(rb'template\s*::\s*\\"([^"\\]*)')
COMMANDS = (
    *("go to _", "open _", "take _ from _", "move _ to _", "examine _", "use _"),
    *("clean _ with _", "heat _ with _", "cool _ with _"),
)
"""What skills, prompts and expert speak of; `_` is a name. Older packagings say "put _ in/on _"."""
_SOLVABLE = re.compile(rb'"solvable":\s*(true|false)')


def load_tasks(data: Path, split: str, task_types: Sequence[str] | None = None) -> list[Task]:
    """All games of a split, sorted by id; only `task_types` where given.

    `data` contains `json_2.1.1/` (it is `$ALFWORLD_DATA`). Raises SdarError when the folder is
    missing, when a game cannot be read, or when no game is left.
    """
    folder = data / GAMES_FOLDER / split
    if not folder.is_dir():
        raise SdarError(
            f"environment.data: no folder {folder}: run alfworld-download, "
            "or set environment.data to null to generate games"
        )
    wanted = None if task_types is None else set(task_types)
    tasks = []
    for trial in _trials(folder):
        task = _read_task(trial, f"{split}/{trial.relative_to(folder).as_posix()}", split)
        if task is not None and (wanted is None or task.task_type in wanted):
            tasks.append(task)
    if not tasks:
        kinds = "" if wanted is None else f" of type {', '.join(sorted(wanted))}"
        raise SdarError(
            f"environment.data: no solvable game{kinds} in {folder}: run alfworld-download, "
            "or set environment.data to null to generate games"
        )
    return sorted(tasks, key=lambda task: task.id.split("/"))


def _trials(folder: Path) -> Iterator[Path]:
    """The folders of games, without those ALFWorld's text environment does not support."""
    for root, _, files in os.walk(folder):
        if GAME_FILE in files:
            path = Path(root)
            relative = path.relative_to(folder).as_posix()
            if "movable" not in relative and "Sliced" not in relative:
                yield path


def _read_task(trial: Path, identity: str, split: str) -> Task | None:
    """The task of one folder; None when the game is not marked solvable.

    Two regular expressions instead of two JSON parses: a full split is 300 MB of JSON.
    """
    game_file = trial / GAME_FILE
    game = _read(game_file)
    whole = game.rstrip().endswith(b"}")
    solvable = _SOLVABLE.findall(game)
    if whole and (not solvable or solvable[-1] != b"true"):
        return None
    _check_commands(game, game_file)
    sentence = _SENTENCE.search(game)
    trajectory = _read(trial / "traj_data.json").rstrip()
    task_type = _TASK_TYPE.search(trajectory)
    if not whole or sentence is None:
        raise _cut_short(game_file)
    if task_type is None or not trajectory.endswith(b"}"):
        raise _cut_short(trial / "traj_data.json")
    return Task(
        id=identity,
        split=split,
        task_type=task_type.group(1).decode(),
        instruction=sentence.group(1).decode("utf-8").strip(),
        location=str(game_file),
        content=parts_digest([game, trajectory])[:16],
    )


def _check_commands(game: bytes, path: Path) -> None:
    """The game's commands are those of the packaging that the rest of the code speaks of."""
    written = {_NAME.sub("_", found.decode()) for found in _COMMAND.findall(game)}
    missing = [command for command in COMMANDS if command not in written]
    if written and missing:
        other = sorted(written - {*COMMANDS, "close _", "look", "inventory", "help"})
        raise SdarError(
            f"game {path} is of another packaging of ALFWorld: it knows no command "
            f"`{missing[0]}`, which skills and expert speak of (it has {', '.join(other[:4])}); "
            "fetch the games again with the `alfworld-download` of alfworld 0.4 or later"
        )


def _cut_short(path: Path) -> SdarError:
    return SdarError(
        f"game {path} is cut short or not in ALFWorld's format; "
        "regenerate it with sdar tasks, or fetch it again"
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SdarError(
            f"{path} cannot be read ({error.strerror}); fetch the data again"
        ) from error
