"""Real ALFWorld data drops in: every game of the archive is listed by ALFWorld's own filter."""

import tarfile
from collections import Counter
from pathlib import Path

import pytest

from sdar.environments.alfworld.config import ALFWORLD_TASK_TYPES
from sdar.environments.alfworld.observed import parse_instruction
from sdar.environments.alfworld.tasks import find_tasks
from sdar.errors import SdarError


def test_real_games_are_listed(shared: Path, tmp_path: Path) -> None:
    with tarfile.open(shared / "data" / "alfworld" / "json_2.1.1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    tasks = list(find_tasks(tmp_path, ALFWORLD_TASK_TYPES, ("train", "valid_seen")))
    counts = Counter((task.split, task.task_type) for task in tasks)
    assert [counts["valid_seen", task_type] for task_type in ALFWORLD_TASK_TYPES] == [
        35,
        13,
        27,
        16,
        25,
        24,
    ]
    assert {counts["train", task_type] for task_type in ALFWORLD_TASK_TYPES} == {50}
    assert all(Path(task.location).is_file() for task in tasks)
    for task in tasks:
        target, goal = parse_instruction(task.instruction)
        _, kind, _, last, _ = task.id.split("/")[1].split("-")
        assert (target, goal) == (kind.lower(), last.lower())

    heat = list(find_tasks(tmp_path, ["pick_heat_then_place_in_recep"], ["valid_seen"]))
    assert len(heat) == 16
    with pytest.raises(SdarError, match=r"environment\.data.*valid_unseen"):
        list(find_tasks(tmp_path, ALFWORLD_TASK_TYPES))
