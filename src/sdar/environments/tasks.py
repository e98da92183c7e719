"""The `tasks` stage: what there is to do, made or listed by the environment, and read back.

`layout.tasks` then holds `tasks.jsonl` (one task per line, locations relative to the folder, or
absolute for real data elsewhere), `tasks.md` (counts), and whatever the environment plays from.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sdar.environments.base import Knowledge, Task
from sdar.environments.packages import environment_package
from sdar.environments.section import EnvironmentSection
from sdar.errors import SdarError
from sdar.escaping import markdown
from sdar.files.whole import built_folder
from sdar.layout import Layout


def make_tasks(environment: EnvironmentSection, panels: Sequence[str], layout: Layout) -> None:
    """Write `layout.tasks`, whole or not at all."""
    package = environment_package(environment.name)
    with built_folder(layout.tasks) as building:
        tasks, source = package.make_tasks(environment, panels, building)
        lines = (json.dumps(_stored(task, layout).as_dict()) + "\n" for task in tasks)
        (building / "tasks.jsonl").write_text("".join(lines), encoding="utf-8")
        (building / "tasks.md").write_text(counts_table(tasks, source), encoding="utf-8")


def counts_table(tasks: list[Task], source: str) -> str:
    """Tasks by split and type, as markdown."""
    types = list(dict.fromkeys(task.task_type for task in tasks))
    counts = Counter((task.split, task.task_type) for task in tasks)
    rows = [
        f"# Tasks: {markdown(source)}",
        "",
        f"| split | tasks | {' | '.join(map(markdown, types))} |",
        f"|---|---|{'---|' * len(types)}",
    ]
    for split in dict.fromkeys(task.split for task in tasks):
        cells = [str(counts[split, task_type]) for task_type in types]
        total = sum(task.split == split for task in tasks)
        rows.append(f"| {markdown(split)} | {total} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def read_tasks(layout: Layout, split: str) -> list[Task]:
    """The tasks of a split in their fixed order, locations resolved."""
    path = layout.tasks / "tasks.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        tasks = [Task(**json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError) as error:
        raise SdarError(f"{path} cannot be read ({error}): run `sdar tasks` to make it") from error
    chosen = [task for task in tasks if task.split == split]
    if not chosen:
        known = ", ".join(dict.fromkeys(task.split for task in tasks))
        raise SdarError(f"{path} has no split '{split}': it has {known}")
    return [
        replace(task, location=os.path.normpath(layout.tasks / task.location)) for task in chosen
    ]


def _stored(task: Task, layout: Layout) -> Task:
    """Data below the root are named from the tasks' folder: a copy of it all plays its own."""
    location, root = Path(task.location), layout.root.resolve()
    if not (location.is_absolute() and location.is_relative_to(root)):
        return task
    inside = os.path.relpath(location.relative_to(root), layout.tasks.relative_to(layout.root))
    return replace(task, location=inside)


def read_knowledge(environment: EnvironmentSection, layout: Layout) -> Knowledge | None:
    """What can be told of the world that the tasks are set in; None for real data."""
    package = environment_package(environment.name)
    if environment.data is None and package.world_file is not None:
        path = layout.tasks / package.world_file
        if not path.is_file():
            raise SdarError(f"{path} is missing: run `sdar tasks` to make it")
    return package.knowledge(layout.tasks)
