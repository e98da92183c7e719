"""TextWorldExpress's tasks: the engine's own seeds. There is nothing to write but their list."""

from sdar.environments.base import Task
from sdar.environments.textworld_express.config import TextworldExpressConfig
from sdar.environments.textworld_express.engine import ExpressEnvironment


def make_tasks(environment: TextworldExpressConfig) -> tuple[list[Task], str]:
    """The first seeds of each fold, and where they come from."""
    engine = ExpressEnvironment(environment.parameters)
    tasks = []
    for split, count in environment.seeds.model_dump().items():
        for game in environment.games:
            for seed in engine.seeds(game, split)[:count]:
                location = f"{game}/{split}/{seed}"
                said = engine.instruction(location)
                tasks.append(Task(location, split, game, said, location))
    return tasks, "TextWorldExpress's own seeds"
