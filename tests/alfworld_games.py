"""Generated ALFWorld games for tests: one small game a task type."""

from dataclasses import replace
from pathlib import Path

from sdar.environments.alfworld.config import ALFWORLD_TASK_TYPES
from sdar.environments.alfworld.world.generator import Request, make_game
from sdar.environments.alfworld.world.home import Home
from sdar.environments.base import Task


def small_games(folder: Path, count: int = len(ALFWORLD_TASK_TYPES)) -> list[Task]:
    """`count` small games of the train split under `folder`, with absolute locations."""
    home = Home.draw(0)
    games = [
        make_game(Request(0, "train", index, home, ALFWORLD_TASK_TYPES, count, folder))
        for index in range(count)
    ]
    return [replace(game, location=str(folder / game.location)) for game in games]
