"""TextWorldExpress's tasks: the engine's own seeds. There is nothing to write but their list."""

from sdar.environments.base import Task
from sdar.environments.textworld_express.config import TextworldExpressConfig
from sdar.environments.textworld_express.engine import ExpressEnvironment
from sdar.files.digest import text_digest


def make_tasks(environment: TextworldExpressConfig) -> tuple[list[Task], str]:
    """The first seeds of each fold, and where they come from."""
    engine = ExpressEnvironment(environment.parameters)
    tasks = []
    for split, count in environment.seeds.model_dump().items():
        for game in environment.games:
            for seed in engine.seeds(game, split)[:count]:
                location = f"{game}/{split}/{seed}"
                said = engine.instruction(location)
                content = text_digest(environment.parameters.get(game, ""))[:16]
                tasks.append(Task(location, split, game, said, location, content=content))
    return tasks, "TextWorldExpress's own seeds"
