"""How many real ALFWorld games the scripted expert wins, and whether all it says is on offer.

    python benchmarks/alfworld_expert.py DATA [--panels valid_seen valid_unseen] [--turns 100]

DATA is an `$ALFWORLD_DATA` folder. `--meddling N`: somebody else takes the first N turns, with any
admissible actions; the expert is asked all the same.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdar.environments.alfworld.engine.environment import AlfworldEnvironment
from sdar.environments.alfworld.engine.loader import load_tasks
from sdar.environments.base import Task
from sdar.environments.packages import environment_package


@dataclass(frozen=True)
class Played:
    """One game: `turns` are the expert's; `strange` counts what it said that was not on offer."""

    task: Task
    won: bool
    turns: int
    strange: int


def play(environment: AlfworldEnvironment, task: Task, turns: int, meddling: int = 0) -> Played:
    """The expert on one game, after `meddling` turns by somebody else, in `turns` of its own."""
    draw = random.Random(f"meddling {task.id}")
    seen = environment.reset(task)
    expert = environment_package("alfworld").expert(task, seen, None)
    strange = 0
    for turn in range(meddling + turns):
        _, action = expert.act()
        strange += action not in seen.admissible_actions
        if turn < meddling:
            action = draw.choice(seen.admissible_actions)
        seen = environment.step(action)
        expert.observe(action, seen)
        if seen.won:
            return Played(task, True, max(0, turn + 1 - meddling), strange)
    return Played(task, False, turns, strange)


def play_all(tasks: Sequence[Task], turns: int, meddling: int = 0) -> list[Played]:
    environment = AlfworldEnvironment()
    try:
        return [play(environment, task, turns, meddling) for task in tasks]
    finally:
        environment.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--panels", nargs="+", default=["valid_seen", "valid_unseen"])
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--meddling", type=int, default=0)
    given = parser.parse_args()
    for panel in given.panels:
        games = play_all(load_tasks(given.data, panel), given.turns, given.meddling)
        won = [game for game in games if game.won]
        mean = sum(game.turns for game in won) / max(1, len(won))
        strange = sum(game.strange for game in games)
        print(
            f"{panel}: {len(won)} of {len(games)} won in {given.turns} turns, in {mean:.1f} on "
            f"average; {strange} actions not on offer"
        )
        for game in games:
            if not game.won:
                print(f"  lost: {game.task.id}")


if __name__ == "__main__":
    main()
