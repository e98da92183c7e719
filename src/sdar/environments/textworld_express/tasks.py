"""TextWorldExpress's tasks: the engine's own seeds. There is nothing to write but their list."""

import json
from pathlib import Path

from sdar.environments.base import Task
from sdar.environments.textworld_express.config import TextworldExpressConfig
from sdar.environments.textworld_express.engine import ExpressEnvironment
from sdar.errors import SdarError
from sdar.files.digest import text_digest

PARAMETERS = "parameters.json"
"""In the tasks' folder: what makes a seed the game it is."""


def make_tasks(environment: TextworldExpressConfig, folder: Path) -> tuple[list[Task], str]:
    """The first seeds of each fold, and where they come from."""
    (folder / PARAMETERS).write_text(json.dumps(environment.parameters), encoding="utf-8")
    engine = ExpressEnvironment(environment.parameters, environment.worker_timeout)
    tasks = []
    for split, count in environment.seeds.model_dump().items():
        for game in environment.games:
            for seed in engine.seeds(game, split)[:count]:
                location = f"{game}/{split}/{seed}"
                said = engine.instruction(location)
                content = text_digest(environment.parameters.get(game, ""))[:16]
                tasks.append(Task(location, split, game, said, location, content=content))
    return tasks, "TextWorldExpress's own seeds"


def read_parameters(location: str) -> dict[str, str]:
    """The parameters of the games in the folder that a task's location begins with; none for a
    location without a folder."""
    file = Path(location).parent.parent.parent / PARAMETERS
    if not file.is_file():
        return {}
    try:
        parameters: dict[str, str] = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise SdarError(f"{file} cannot be read ({error}): run `sdar tasks` to make it") from error
    return parameters
