"""TextWorldExpress as the rest of the code sees it: all that a further environment needs."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdar.environments.base import (
    EnvironmentPackage,
    EnvironmentPool,
    Knowledge,
    Observation,
    Task,
)
from sdar.environments.common import ActionListPackage
from sdar.environments.pools import InProcessPool
from sdar.environments.textworld_express.engine import ExpressEnvironment


class GoldExpert:
    """Follows the engine's own solution; after a detour it goes on where it left off."""

    def __init__(self, solution: Sequence[str]) -> None:
        # Looking around costs a turn and shows what the first observation showed.
        self._left = [action for action in solution if action != "look around"]

    def act(self) -> tuple[str, str]:
        action = self._left[0] if self._left else "look around"
        return f"next: {action}", action

    def observe(self, action: str, observation: Observation) -> None:
        if self._left and action == self._left[0]:
            self._left.pop(0)


class ExpressPractice:
    """One game of the warm start; hinted prompts hold the skill, which has no habits to tell."""

    knowledge = None

    def __init__(self, environment: ExpressEnvironment, task: Task, hinted: bool) -> None:
        self.task = task
        self.hinted = hinted
        self._environment = environment
        self._expert = GoldExpert(environment.gold_actions(task.location))
        self.observation = environment.reset(task)

    def expert_turn(self) -> tuple[str, str]:
        return self._expert.act()

    def mistake(self, draw: random.Random) -> str:
        return draw.choice(self.observation.admissible_actions)

    def step(self, action: str) -> Observation:
        self.observation = self._environment.step(action)
        self._expert.observe(action, self.observation)
        return self.observation


class TextworldExpressPackage(ActionListPackage):
    """See `base.EnvironmentPackage`."""

    name = "textworld_express"

    def make_tasks(self, config: Any, folder: Path) -> tuple[list[Task], str]:
        """The first seeds of each fold; there is nothing to write but their list."""
        environment = config.environment
        engine = ExpressEnvironment(dict(environment.parameters))
        tasks = []
        for split, count in environment.seeds.model_dump().items():
            for game in environment.games:
                for seed in engine.seeds(game, split)[:count]:
                    location = f"{game}/{split}/{seed}"
                    said = engine.instruction(location)
                    tasks.append(Task(location, split, game, said, location))
        return tasks, "TextWorldExpress's own seeds"

    def open_pool(self, environment: Any, folder: Path) -> EnvironmentPool:
        return InProcessPool(lambda: ExpressEnvironment(dict(environment.parameters)))

    def expert(self, task: Task, first: Observation, knowledge: Knowledge | None) -> GoldExpert:
        return GoldExpert(ExpressEnvironment({}).gold_actions(task.location))

    def practice(self, config: Any, index: int, *, opening: bool = False) -> ExpressPractice:
        """A train seed that training does not play, hinted by a draw of its own."""
        settings, demonstrations = config.environment, config.warm_start.demonstrations
        environment = ExpressEnvironment(dict(settings.parameters))
        game = settings.games[index % len(settings.games)]
        draw = random.Random(f"express/{demonstrations.seed}/{index}/{opening}")
        seed = draw.choice(environment.seeds(game, "train")[settings.seeds.train :])
        hinted = opening or draw.random() < demonstrations.hinted
        location = f"{game}/train/{seed}"
        said = environment.instruction(location)
        return ExpressPractice(
            environment, Task(location, "practice", game, said, location), hinted
        )


PACKAGE: EnvironmentPackage = TextworldExpressPackage()
