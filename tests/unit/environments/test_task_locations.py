"""Where a task says that it lies, after its project was copied."""

import shutil
from pathlib import Path

import pytest

from sdar.config import Layout, parse_config
from sdar.environments import tasks
from sdar.environments.base import Task
from sdar.environments.tasks import make_tasks, read_tasks


@pytest.mark.parametrize("root", ["project", "linked", "."])
def test_data_in_the_project_are_the_copy_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    """Real data have absolute locations; below the root they are named from the tasks' folder."""
    project = tmp_path / "project"
    (project / "games").mkdir(parents=True)
    (tmp_path / "linked").symlink_to(project)
    monkeypatch.chdir(project if root == "." else tmp_path)
    inside, outside = project / "games" / "game", tmp_path / "elsewhere" / "game"
    listed = [
        Task("in", "train", "type", "Do.", str(inside)),
        Task("out", "train", "type", "Do.", str(outside)),
        Task("own", "train", "type", "Do.", "made/game"),
    ]

    class Package:
        def make_tasks(self, *_given: object) -> tuple[list[Task], str]:
            return listed, "a test"

    monkeypatch.setattr(tasks, "environment_package", lambda _name: Package())
    make_tasks(parse_config({}).environment, (), Layout(Path(root), "x"))
    own = project / "data" / "x" / "tasks" / "made" / "game"
    read = [Path(task.location).resolve() for task in read_tasks(Layout(Path(root), "x"), "train")]
    assert read == [inside, outside, own]
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    read = [Path(task.location) for task in read_tasks(Layout(copy, "x"), "train")]
    assert read == [copy / "games" / "game", outside, copy / own.relative_to(project)]
