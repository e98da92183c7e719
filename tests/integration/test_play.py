"""`sdar play`: a person by numbers and words, and the expert."""

from pathlib import Path

import pytest

from sdar.environments.alfworld.config import ALFWORLD_TASK_TYPES, AlfworldConfig
from sdar.environments.alfworld.world import pddl
from sdar.environments.alfworld.world.generator import abstract_game
from sdar.environments.alfworld.world.home import Home
from sdar.environments.alfworld.world.solve import solve
from sdar.environments.base import Task

pytest.importorskip("textworld", reason="games are played on the TextWorld engine")

HOME = Home.draw(0)


@pytest.fixture
def game(tmp_path: Path) -> tuple[Task, list[str]]:
    made = abstract_game(0, "train", 0, HOME, ALFWORLD_TASK_TYPES, 6)
    plan = solve(made)
    path = pddl.write_game(made, plan, tmp_path)
    return Task(made.id, "train", made.task_type, made.sentence, str(path)), plan


def play(folder: Path, task: Task, expert: bool = False) -> bool:
    from sdar.cli.play import play as stage
    from sdar.environments.alfworld.package import PACKAGE

    return stage(PACKAGE, AlfworldConfig(workers=0), folder, task, expert)


def test_expert_plays_and_shows_its_thoughts(game, tmp_path, capsys) -> None:
    task, _ = game
    HOME.write(tmp_path / "home.json")
    assert play(tmp_path, task, expert=True)
    shown = capsys.readouterr().out
    assert f"Your task: {task.instruction}" in shown
    assert "(need " in shown
    assert "Won after" in shown


def test_person_plays_by_word_and_number(game, tmp_path, capsys, monkeypatch) -> None:
    task, plan = game
    typed = iter(["", "open sesame", "1", *plan])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    assert play(tmp_path, task)
    shown = capsys.readouterr().out
    assert "Nothing happens." in shown
    assert f"Won after {len(plan) + 2} turns." in shown


def test_person_may_leave(game, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("builtins.input", lambda _: "q")
    assert not play(tmp_path, game[0])
    assert "Not won after 0 turns." in capsys.readouterr().out
