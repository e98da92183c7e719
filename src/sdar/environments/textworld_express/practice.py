"""Practice episodes for the warm start, on seeds that training does not play."""

import random
from typing import Any

from sdar.environments.base import Task
from sdar.environments.common import ActionListPractice
from sdar.environments.textworld_express.engine import ExpressEnvironment
from sdar.environments.textworld_express.expert import GoldExpert


class ExpressPractice(ActionListPractice):
    """One game of the warm start; hinted prompts hold the skill, which has no habits to tell."""

    knowledge = None

    def __init__(self, environment: ExpressEnvironment, task: Task, hinted: bool) -> None:
        self.task = task
        self.hinted = hinted
        self._environment = environment
        solution = environment.gold_actions(task.location)
        self.observation = environment.reset(task)
        self._expert = GoldExpert(solution, self.observation)


def practice(config: Any, index: int, *, opening: bool = False) -> ExpressPractice:
    """Game number `index`: a train seed that training does not play; its own draw hints it."""
    settings, demonstrations = config.environment, config.warm_start.demonstrations
    environment = ExpressEnvironment(settings.parameters, settings.worker_timeout)
    game = settings.games[index % len(settings.games)]
    draw = random.Random(f"express/{demonstrations.seed}/{index}/{opening}")
    seed = draw.choice(environment.seeds(game, "train")[settings.seeds.train :])
    hinted = opening or draw.random() < demonstrations.hinted
    location = f"{game}/train/{seed}"
    said = environment.instruction(location)
    return ExpressPractice(environment, Task(location, "practice", game, said, location), hinted)
