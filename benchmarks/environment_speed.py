"""How fast ALFWorld games load, reset and step: the fast engine beside the stock one.

    python benchmarks/environment_speed.py [--data DIR] [--stock-steps N] [--output FILE]

One process, one thread, a seeded random player. Games of both sizes are generated here; real ones
come from --data (a folder with json_2.1.1/). Wall seconds are what a user waits; CPU
seconds do not depend on what else the machine does. The engine patches nothing, so both engines
run in the same process and see the same games, states and actions.

Left out: model time, and pools (a worker steps its games at the speed shown here).
"""

import argparse
import gc
import json
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sdar.environments.alfworld.config import ALFWORLD_TASK_TYPES
from sdar.environments.alfworld.engine.environment import AlfworldEnvironment, GameCache
from sdar.environments.alfworld.engine.loader import load_tasks
from sdar.environments.alfworld.world.generator import Request, make_game
from sdar.environments.alfworld.world.home import Home, Size
from sdar.environments.base import Task


@dataclass(frozen=True)
class Speed:
    """Times in seconds; medians over games, except the rates, which are totals."""

    games: str
    engine: str
    receptacles: float
    admissible: float
    first_reset: float
    """Loading the game and starting it."""
    reset: float
    steps: int
    steps_per_second: float
    steps_per_cpu_second: float


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(name: str, tasks: Sequence[Task], stock: bool, steps: int, turns: int) -> Speed:
    """Play `steps` random steps in episodes of `turns`, spread over the games."""
    environment = AlfworldEnvironment(GameCache(), stock=stock)
    environment.reset(tasks[0])  # grammar parsed, library loaded: once a process
    environment = AlfworldEnvironment(GameCache(), stock=stock)
    gc.collect()
    first, again, choices, receptacles = [], [], [], []
    wall = cpu = 0.0
    done = episode = 0
    budget = max(1, steps // len(tasks))
    for task in tasks:
        first.append(timed(lambda task=task: environment.reset(task)))
        played = 0
        while played < budget:
            again.append(timed(lambda task=task: environment.reset(task)))
            seen = environment.reset(task)
            receptacles.append(sum(a.startswith("go to") for a in seen.admissible_actions))
            rng = random.Random(episode)
            episode += 1
            actions_seen = []
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            for _ in range(min(turns, budget - played)):
                seen = environment.step(rng.choice(seen.admissible_actions))
                actions_seen.append(len(seen.admissible_actions))
            wall += time.perf_counter() - wall_start
            cpu += time.process_time() - cpu_start
            played += len(actions_seen)
            choices += actions_seen
        done += played
    return Speed(
        games=name,
        engine="stock" if stock else "fast",
        receptacles=statistics.median(receptacles),
        admissible=statistics.median(choices),
        first_reset=round(statistics.median(first), 4),
        reset=round(statistics.median(again), 4),
        steps=done,
        steps_per_second=round(done / wall, 1),
        steps_per_cpu_second=round(done / cpu, 1),
    )


def generated_games(folder: Path, size: Size, count: int) -> list[Task]:
    home = Home.draw(0, size=size)
    games = [
        make_game(Request(0, "train", i, home, ALFWORLD_TASK_TYPES, count, folder))
        for i in range(count)
    ]
    return [replace(game, location=str(folder / game.location)) for game in games]


def table(speeds: Sequence[Speed]) -> str:
    lines = [
        "| games | engine | receptacles | actions | first reset s | reset s | steps | steps/s "
        "| steps/CPU s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {s.games} | {s.engine} | {s.receptacles:g} | {s.admissible:g} | {s.first_reset:.3f} "
        f"| {s.reset:.4f} | {s.steps} | {s.steps_per_second:.0f} | {s.steps_per_cpu_second:.0f} |"
        for s in speeds
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with json_2.1.1/: real games too")
    parser.add_argument("--games", type=int, default=12, help="games of each size")
    parser.add_argument("--steps", type=int, default=6000, help="steps on the fast engine")
    parser.add_argument("--stock-steps", type=int, default=120, help="and on the stock one")
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    arguments = parser.parse_args()

    speeds = []
    with tempfile.TemporaryDirectory() as folder:
        sizes = [
            ("small", generated_games(Path(folder) / "small", "small", arguments.games), 14),
            ("full", generated_games(Path(folder) / "full", "full", arguments.games), 50),
        ]
        if arguments.data is not None:
            tasks = load_tasks(arguments.data, "valid_seen")
            chosen = random.Random(0).sample(tasks, min(arguments.games, len(tasks)))
            sizes.append(("real", chosen, 50))
        for name, tasks, turns in sizes:
            speeds.append(measure(name, tasks, False, arguments.steps, turns))
            if arguments.stock_steps:
                some = tasks[: max(1, len(tasks) // 3)]
                speeds.append(measure(name, some, True, arguments.stock_steps, turns))
    result = {
        "machine": {"processor": platform.machine(), "python": platform.python_version()},
        "speeds": [asdict(speed) for speed in speeds],
    }
    print(table(speeds))
    print(json.dumps(result, indent=1))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
