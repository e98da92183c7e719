"""The fourth environment: its games are functions of their seeds, and its expert wins them."""

import os
import random
import shutil
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest

from sdar.config import Layout, parse_config
from sdar.environments.base import Task
from sdar.environments.packages import environment_package
from sdar.environments.tasks import make_tasks, read_tasks
from sdar.environments.textworld_express.engine import _gateway
from sdar.errors import SdarError

if find_spec("textworld_express") is None:
    pytest.skip("needs pip install 'sdar[express]'", allow_module_level=True)
if shutil.which("java") is None:
    pytest.skip("TextWorldExpress runs on a Java runtime", allow_module_level=True)

GAMES = (
    "cookingworld",
    "twc",
    "coin",
    "mapreader",
    "arithmetic",
    "sorting",
    "simonsays",
    "peckingorder",
)
CONFIG = parse_config(
    {
        "experiment": "express",
        "environment": {
            "name": "textworld_express",
            "games": list(GAMES),
            "seeds": {"train": 2, "dev": 1, "test": 1},
            "max_turns": 60,
        },
        "evaluation": {"panels": ["dev"]},
    }
)
PACKAGE = environment_package("textworld_express")


def test_tasks_cover_every_game_and_split_and_are_read_back(tmp_path: Path) -> None:
    layout = Layout(tmp_path, "express")
    make_tasks(CONFIG.environment, CONFIG.evaluation.panels, layout)
    for split, count in (("train", 2), ("dev", 1), ("test", 1)):
        tasks = read_tasks(layout, split)
        assert sorted(task.task_type for task in tasks) == sorted(GAMES * count)
        assert all(task.instruction for task in tasks)
    assert "| train | 16 |" in (layout.tasks / "tasks.md").read_text()


@pytest.mark.parametrize("game", GAMES)
def test_the_expert_wins(game: str, tmp_path: Path) -> None:
    task = Task(f"{game}/dev/10000", "dev", game, "", f"{game}/dev/10000")
    pool = PACKAGE.open_pool(CONFIG.environment, tmp_path)
    seen = pool.reset({0: task})[0]
    expert = PACKAGE.expert(task, seen, None)
    for _ in range(100):
        if seen.done:
            break
        _, action = expert.act()
        seen = pool.step({0: action})[0]
        expert.observe(action, seen)
    assert (seen.won, seen.done, seen.score) == (True, True, 1.0)


@pytest.mark.parametrize("game", GAMES)
def test_episodes_depend_on_seed_and_actions_alone(game: str, tmp_path: Path) -> None:
    seeds = (10_003, 10_004, 10_003)
    tasks = {
        slot: Task(f"{game}/dev/{seed}", "dev", game, "", f"{game}/dev/{seed}")
        for slot, seed in enumerate(seeds)
    }
    pool = PACKAGE.open_pool(CONFIG.environment, tmp_path)
    seen = pool.reset(tasks)
    assert seen[0] == seen[2] != seen[1]
    draw = random.Random(0)
    # One twin acts first and alone, the other later, beside an episode that goes its own way.
    actions, answers = [], []
    while len(actions) < 8 and not seen[0].done:
        actions.append(draw.choice(seen[0].admissible_actions))
        seen[0] = pool.step({0: actions[-1]})[0]
        answers.append(seen[0])
    for action, answer in zip(actions, answers, strict=True):
        assert pool.step({1: "look around", 2: action})[2] == answer
        assert list(answer.admissible_actions) == sorted(set(answer.admissible_actions))


def test_practice_is_hinted_as_configured_and_never_a_training_game() -> None:
    hinted = []
    for index in range(40):
        practice = PACKAGE.practice(CONFIG, index)
        again = PACKAGE.practice(CONFIG, index)
        assert (practice.task, practice.hinted) == (again.task, again.hinted)
        assert int(practice.task.location.rsplit("/", 1)[1]) >= CONFIG.environment.seeds.train
        hinted.append(practice.hinted)
    assert 8 <= sum(hinted) <= 32
    assert PACKAGE.practice(CONFIG, 5, opening=True).hinted


def test_the_expert_plays_the_games_that_were_made(tmp_path: Path) -> None:
    """A seed is another game with other parameters, and the expert's solution was that of the
    engine's own ones. Whoever acted before, what it says is on offer."""
    environment = {
        "name": "textworld_express",
        "games": ["coin", "cookingworld"],
        "parameters": {"coin": "numLocations=3,numDistractorItems=0,includeDoors=0"},
        "seeds": {"train": 1, "dev": 4, "test": 1},
    }
    config = parse_config({"experiment": "made", "environment": environment})
    layout = Layout(tmp_path, "made")
    make_tasks(config.environment, ("dev",), layout)
    pool = PACKAGE.open_pool(config.environment, layout.tasks)
    for task in read_tasks(layout, "dev"):
        for meddling in (0, 6):
            draw = random.Random(f"{task.id} {meddling}")
            seen = pool.reset({0: task})[0]
            expert = PACKAGE.expert(task, seen, None)
            for turn in range(meddling + 100):
                if seen.done:
                    break
                _, action = expert.act()
                assert action in seen.admissible_actions
                if turn < meddling:
                    action = draw.choice(seen.admissible_actions)
                seen = pool.step({0: action})[0]
                expert.observe(action, seen)
            assert seen.won or meddling


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_a_java_process_that_does_not_answer_is_named(tmp_path: Path, how: signal.Signals) -> None:
    task = Task("coin/dev/10000", "dev", "coin", "", "coin/dev/10000")
    settings = CONFIG.environment.model_copy(update={"worker_timeout": 5.0})
    pool = PACKAGE.open_pool(settings, tmp_path)
    first = pool.reset({0: task})[0]
    process = _gateway()._gateway.java_process
    os.kill(process.pid, how)
    if how == signal.SIGKILL:
        process.wait()
    why = "has not answered for 5 s" if how == signal.SIGSTOP else "ended .exit code -9."
    named = f"Java process {process.pid}, playing coin/dev/10000, {why}: free memory, or raise"
    with pytest.raises(SdarError, match=named):
        pool.step({0: "look around"})
    assert process.wait() == -signal.SIGKILL
    # The next pool has a process of its own.
    assert PACKAGE.open_pool(CONFIG.environment, tmp_path).reset({0: task})[0] == first
