"""The simulator against the engine: text, admissible actions in order, won, at every step."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from sdar.environments.alfworld.config import ALFWORLD_TASK_TYPES
from sdar.environments.alfworld.world import pddl
from sdar.environments.alfworld.world.abstract import Game
from sdar.environments.alfworld.world.generator import SPLITS, abstract_game
from sdar.environments.alfworld.world.home import Home
from sdar.environments.alfworld.world.simulator import SimulatedEnvironment, SimulatedGame
from sdar.environments.alfworld.world.solve import solve
from sdar.environments.base import Observation, Task
from sdar.errors import SdarError

pytest.importorskip("textworld", reason="the simulator is compared with the TextWorld engine")

ODD = ("", "help", " look ", "Look", "go  to fridge 1", "take mug 9 from fridge 1", "put it down")
GAMES = 60


def game(index: int) -> Game:
    home = Home.draw(index % 7)
    return abstract_game(3, SPLITS[index % 3], index, home, ALFWORLD_TASK_TYPES, 300)


def choose(kind: str, seen: Observation, rng: random.Random) -> str:
    """A random action; `busy` prefers handling things to walking about."""
    if rng.random() < 0.1:
        return rng.choice(ODD)
    idle = ("go to", "look", "inventory", "examine")
    busy = [action for action in seen.admissible_actions if not action.startswith(idle)]
    if kind == "busy" and busy and rng.random() < 0.6:
        return rng.choice(busy)
    return rng.choice(seen.admissible_actions)


def test_simulator_equals_the_engine(tmp_path: Path) -> None:
    from sdar.environments.alfworld.engine.environment import AlfworldEnvironment

    engine, simulator = AlfworldEnvironment(), SimulatedEnvironment()
    steps = wins = nothing = 0
    for index in range(GAMES):
        played = game(index)
        plan = solve(played)
        path = pddl.write_game(played, plan, tmp_path)
        task = Task(played.id, played.split, played.task_type, played.sentence, str(path))
        for kind in ("plan", "random", "busy"):
            rng = random.Random(f"{index}/{kind}")
            real, simulated = engine.reset(task), simulator.reset(played)
            assert simulated == real, played.id
            for turn in range(len(plan) if kind == "plan" else 30):
                action = plan[turn] if kind == "plan" else choose(kind, real, rng)
                real, simulated = engine.step(action), simulator.step(action)
                assert simulated == real, (played.id, kind, turn, action)
                steps += 1
                nothing += real.text == "Nothing happens."
                if real.won:
                    break
            wins += real.won
    engine.close()
    assert wins >= GAMES
    assert nothing > 100
    assert steps > 2_000


def test_shared_standing_places_are_refused() -> None:
    """Such games would need text the simulator does not have; it must not play them wrongly."""
    played = game(0)
    first, *others = played.receptacles
    shared = (first, *(replace(r, location=first.location) for r in others))
    with pytest.raises(SdarError, match="small games"):
        SimulatedGame(replace(played, receptacles=shared))
