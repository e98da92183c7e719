"""Practice episodes for the warm start: many homes, each with its own habits.

Played in the text-equal simulator; training and evaluation use the engine.
"""

import random
from pathlib import Path
from typing import Any

from sdar.environments.alfworld.expert import ExplorerExpert
from sdar.environments.alfworld.observed import Observed
from sdar.environments.alfworld.world.abstract import Game
from sdar.environments.alfworld.world.generator import abstract_game
from sdar.environments.alfworld.world.home import Home
from sdar.environments.alfworld.world.simulator import SimulatedEnvironment
from sdar.environments.base import (
    FIRST_OPENING,
    Knowledge,
    MakeExpert,
    Observation,
    Task,
    TaskExpert,
)
from sdar.environments.common import ActionListPractice
from sdar.errors import SdarError

# Homes of demonstrations are numbered from here, far from any home one would train in.
FIRST_HOME = 1_000_000


class GameExpert:
    """The explorer beside one game; `home` where it is told the habits."""

    stuck = False
    """There is always a place to look into, and if all are known, again."""

    def __init__(
        self, task: Task, first: Observation, knowledge: Knowledge | None, seed: int = 0
    ) -> None:
        hint = knowledge.usual_places(task.task_type) if isinstance(knowledge, Home) else None
        self._expert = ExplorerExpert(seed=seed, order="sweep", hint=hint)
        self._seen = Observed.start(task.task_type, task.instruction, first)

    def act(self) -> tuple[str, str]:
        return self._expert.act(self._seen)

    def observe(self, action: str, observation: Observation) -> None:
        self._seen.update(action, observation)


class Bystander:
    """Beside a game whose task is in people's own words: nobody says what to do there."""

    stuck = True

    def __init__(self, first: Observation) -> None:
        self._offered = first.admissible_actions

    def act(self) -> tuple[str, str]:
        return "nothing to say", self._offered[0]

    def observe(self, action: str, observation: Observation) -> None:
        self._offered = observation.admissible_actions


def experts(environment: Any, folder: Path) -> MakeExpert:
    """See `base.EnvironmentPackage`."""

    def make(task: Task, first: Observation, seed: int) -> TaskExpert:
        try:
            return GameExpert(task, first, None, seed)
        except SdarError:  # `sdar tasks` has said how many there are
            return Bystander(first)

    return make


class GamePractice(ActionListPractice):
    """One simulated game with the expert beside it."""

    def __init__(self, index: int, game: Game, home: Home, hinted: bool) -> None:
        self.task = Task(
            f"practice/{index}", "practice", game.task_type, game.sentence, f"practice/{index}"
        )
        self.game = game
        self.home = home
        self.hinted = hinted
        self.knowledge = home
        self._environment = SimulatedEnvironment()
        self.observation = self._environment.reset(game)
        self._expert = GameExpert(self.task, self.observation, home if hinted else None, index)


def practice(config: Any, index: int, *, opening: bool = False) -> GamePractice:
    """Game number `index`: a function of the configuration and the number.

    Episodes share `warm_start.demonstrations.worlds` homes; each opening has one of its own.
    """
    demonstrations, environment = config.warm_start.demonstrations, config.environment
    index = FIRST_OPENING + index if opening else index
    home_seed = FIRST_HOME + (index if opening else index % demonstrations.worlds)
    home = Home.draw(home_seed, environment.habit, environment.size)
    game = abstract_game(
        demonstrations.seed, "train", index, home, environment.task_types, train_games=1
    )
    # Drawn, not alternated: neither a task type nor a home may go with the hint.
    draw = random.Random(f"hinted/{demonstrations.seed}/{index}").random()
    return GamePractice(index, game, home, hinted=opening or draw < demonstrations.hinted)
