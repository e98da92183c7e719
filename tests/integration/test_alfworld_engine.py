"""The ALFWorld engine against the stock stack, and what it says of bad files."""

import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("alfworld", reason='needs pip install "sdar[alfworld]"')

from alfworld_games import small_games

from sdar.environments.alfworld.engine import environment as engine_module
from sdar.environments.alfworld.engine.environment import AlfworldEnvironment, GameCache
from sdar.environments.alfworld.engine.loader import load_tasks
from sdar.environments.base import Observation, Task
from sdar.errors import SdarError

ODD_COMMANDS = ("help", "  look ", "LOOK", "look  around", "", "put mug 1 in/on desk 1", "<action>")


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    return small_games(tmp_path_factory.mktemp("games"))


def choose(rng: random.Random, seen: Observation) -> str:
    """Mostly admissible, preferring to handle things over walking about; sometimes odd."""
    draw = rng.random()
    if draw < 0.1:
        return rng.choice(ODD_COMMANDS)
    actions = list(seen.admissible_actions)
    if draw < 0.7:
        actions = [action for action in actions if not action.startswith("go to")] or actions
    return rng.choice(actions)


def play_side_by_side(task: Task, turns: int, seed: int) -> None:
    ours, stock = AlfworldEnvironment(), AlfworldEnvironment(stock=True)
    rng = random.Random(seed)
    for _ in range(2):
        seen, expected = ours.reset(task), stock.reset(task)
        for _ in range(turns):
            assert seen == expected
            assert ours.raw_admissible == stock.raw_admissible
            action = choose(rng, seen)
            seen, expected = ours.step(action), stock.step(action)
        assert (seen, ours.raw_admissible) == (expected, stock.raw_admissible)
    ours.close()
    stock.close()


def test_small_games_equal_the_stock_engine(games: list[Task]) -> None:
    for seed, task in enumerate(games):
        play_side_by_side(task, 12, seed)


def test_full_size_games_equal_the_stock_engine(shared: Path, tmp_path: Path) -> None:
    data = unpack(shared, tmp_path)
    tasks = load_tasks(data, "train")
    for seed, task in enumerate(random.Random(0).sample(tasks, 3)):
        play_side_by_side(task, 15, seed)


def unpack(shared: Path, folder: Path) -> Path:
    shutil.unpack_archive(shared / "data" / "alfworld" / "json_2.1.1.tar.xz", folder)
    return folder


def test_walkthroughs_win_and_stay_won(games: list[Task]) -> None:
    environment = AlfworldEnvironment()
    for task in games:
        seen = environment.reset(task)
        assert seen.text.startswith("-= Welcome to TextWorld, ALFRED! =-")
        assert task.instruction in seen.text
        assert not seen.won
        for action in json.loads(Path(task.location).read_text())["walkthrough"]:
            assert action in seen.admissible_actions
            assert not seen.won
            seen = environment.step(action)
        assert (seen.won, seen.done) == (True, True)
        assert environment.step("nonsense") == replace(seen, text="Nothing happens.")


def test_help_is_played_but_not_offered(games: list[Task]) -> None:
    environment = AlfworldEnvironment()
    seen = environment.reset(games[0])
    assert "help" not in seen.admissible_actions
    assert "help" in environment.raw_admissible
    assert sorted((*seen.admissible_actions, "help")) == list(environment.raw_admissible)
    assert "Available commands" in environment.step("help").text


def test_interleaved_games_equal_solo_ones(games: list[Task]) -> None:
    def record(environment: AlfworldEnvironment, task: Task, seed: int):
        rng = random.Random(seed)
        seen = environment.reset(task)
        for _ in range(15):
            yield seen
            seen = environment.step(choose(rng, seen))

    solo = [list(record(AlfworldEnvironment(), task, i)) for i, task in enumerate(games)]
    cache = GameCache()
    # Two episodes of every game at once, all in one process, turn by turn.
    together = [
        record(AlfworldEnvironment(cache), task, i)
        for _ in range(2)
        for i, task in enumerate(games)
    ]
    turns = list(zip(*together, strict=True))
    for number, episode in enumerate(solo * 2):
        assert [turn[number] for turn in turns] == episode


def test_a_second_visit_does_not_load_again(
    games: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    load_game = engine_module.load_game
    monkeypatch.setattr(
        engine_module, "load_game", lambda location: loads.append(location) or load_game(location)
    )
    environment = AlfworldEnvironment(GameCache())
    first = [environment.reset(task) for task in games[:3]]
    again = [environment.reset(task) for task in games[:3]]
    assert first == again
    assert loads == [task.location for task in games[:3]]
    # A cache with no room keeps one game only.
    tight = AlfworldEnvironment(GameCache(limit=1))
    for task in (games[0], games[0], games[1], games[0]):
        tight.reset(task)
    assert loads[3:] == [games[0].location, games[1].location, games[0].location]


def test_a_changed_file_is_loaded_again(games: list[Task], tmp_path: Path) -> None:
    file = tmp_path / "game.tw-pddl"
    task = replace(games[0], location=str(file))
    shutil.copy(games[0].location, file)
    environment = AlfworldEnvironment()
    first = environment.reset(task)
    shutil.copy(games[1].location, file)
    os.utime(file, ns=(1, 1))
    assert environment.reset(task) != first


def test_the_process_is_left_as_it_was(games: list[Task]) -> None:
    argv, stdout, data = sys.argv, sys.stdout, os.environ.get("ALFWORLD_DATA")
    environment = AlfworldEnvironment(GameCache())
    environment.reset(games[0])
    assert sys.argv is argv
    assert sys.stdout is stdout
    assert os.environ.get("ALFWORLD_DATA") == data


def test_nothing_is_created_in_the_home(games: list[Task], tmp_path: Path) -> None:
    code = (
        "import sys; "
        "from sdar.environments.alfworld.engine.environment import AlfworldEnvironment as E; "
        "from sdar.environments.base import Task; "
        "seen = E().reset(Task('', '', '', '', sys.argv[1])); print(seen.text)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ALFWORLD_DATA"}
    done = subprocess.run(
        [sys.executable, "-c", code, games[0].location],
        env={**environment, "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Welcome to TextWorld" in done.stdout
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def corrupted(kind: str, text: str) -> str:
    game = json.loads(text)
    if kind == "truncated":
        return text[: len(text) // 2]
    if kind == "not a game":
        return json.dumps({"hello": 1})
    if kind == "problem cut":
        game["pddl_problem"] = game["pddl_problem"][: len(game["pddl_problem"]) // 2]
    if kind == "unknown object":
        game["pddl_problem"] = game["pddl_problem"].replace("(:init", "(:init (isclean nobody)", 1)
    if kind == "grammar cut":
        game["grammar"] = game["grammar"][:500]
    return json.dumps(game)


@pytest.mark.parametrize(
    "kind", ["truncated", "not a game", "problem cut", "unknown object", "grammar cut"]
)
@pytest.mark.parametrize("stock", [False, True])
def test_a_corrupt_game_is_named(games: list[Task], tmp_path: Path, kind: str, stock: bool) -> None:
    file = tmp_path / "game.tw-pddl"
    file.write_text(corrupted(kind, Path(games[0].location).read_text()))
    environment = AlfworldEnvironment(stock=stock)
    with pytest.raises(SdarError, match=r"game\.tw-pddl.*regenerate it with sdar tasks"):
        environment.reset(replace(games[0], location=str(file)))
    # The environment still plays the next game.
    assert environment.reset(games[1]).admissible_actions


def test_a_missing_game_is_named(games: list[Task], tmp_path: Path) -> None:
    with pytest.raises(SdarError, match=r"game\.tw-pddl: no such file"):
        AlfworldEnvironment().reset(replace(games[0], location=str(tmp_path / "game.tw-pddl")))


def test_the_missing_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "textworld.py").write_text("raise ImportError('no textworld here')")
    code = (
        "from sdar.environments.alfworld.engine.environment import AlfworldEnvironment as E\n"
        "from sdar.errors import SdarError\n"
        "try:\n    E()\nexcept SdarError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert 'pip install "sdar[alfworld]"' in done.stdout


def test_another_textworld_plays_stock_with_one_warning(
    games: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdar.environments.alfworld.engine import textworld_api

    monkeypatch.setattr(textworld_api, "SUPPORTED_TEXTWORLD", "0.0.0")
    textworld_api.fast_engine_applies.cache_clear()
    try:
        with pytest.warns(UserWarning, match="is not the tested 0.0.0") as caught:
            environment, _ = AlfworldEnvironment(), AlfworldEnvironment()
        assert len(caught) == 1
        assert isinstance(environment._engine, engine_module.StockEngine)
    finally:
        monkeypatch.undo()
        textworld_api.fast_engine_applies.cache_clear()
    assert environment.reset(games[0]) == AlfworldEnvironment().reset(games[0])
