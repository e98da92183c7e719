"""Demonstrations from real data: the expert plays the training tasks, and those alone."""

import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_worlds import PANELS, configured, data_of, listed

from sdar.config import ExperimentConfig, Layout, parse_config
from sdar.environments.base import FIRST_OPENING
from sdar.environments.packages import environment_package
from sdar.environments.practices import open_practices
from sdar.environments.tasks import read_tasks
from sdar.errors import SdarError
from sdar.training import warm_policy
from sdar.training.demonstrations import (
    Demonstration,
    library_of,
    make_demonstrations,
    read_demonstrations,
    solved_episode,
)
from sdar.training.warm_start import warm_start

NAMES = ("alfworld", "webshop", "searchqa")
World = tuple[ExperimentConfig, Layout]
SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, "tests")
from real_worlds import listed
from sdar.config import parse_config
from sdar.training.demonstrations import make_demonstrations
for values in json.loads(sys.argv[1]):
    config = parse_config(values)
    make_demonstrations(config, listed(config, Path(sys.argv[2]) / config.environment.name))
"""


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], World]:
    """An experiment on made data of an environment, with its tasks listed."""
    made: dict[str, World] = {}

    def get(name: str) -> World:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            config = configured(name, data_of(name, folder / "data"))
            made[name] = config, listed(config, folder)
        return made[name]

    return get


@pytest.fixture(params=NAMES)
def world(request: pytest.FixtureRequest, worlds: Callable[[str], World]) -> World:
    """That of each environment."""
    return worlds(request.param)


@pytest.fixture(scope="module")
def elsewhere(
    worlds: Callable[[str], World], repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Demonstrations of every environment as another process, with other hashes, makes them: each
    in a folder of its name."""
    root = tmp_path_factory.mktemp("elsewhere")
    configs = [worlds(name)[0].model_dump(mode="json") for name in NAMES]
    subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(configs), str(root)],
        check=True,
        cwd=repository,
        env=os.environ | {"PYTHONHASHSEED": "77"},
    )
    return root


def with_demonstrations(config: ExperimentConfig, **keys: Any) -> ExperimentConfig:
    counts = config.warm_start.demonstrations.model_copy(update=keys)
    warm_start = config.warm_start.model_copy(update={"demonstrations": counts})
    return config.model_copy(update={"warm_start": warm_start})


def made_in(config: ExperimentConfig, layout: Layout) -> list[Demonstration]:
    make_demonstrations(config, layout)
    return read_demonstrations(layout.demonstrations / "demonstrations.parquet")


def made_folder(config: ExperimentConfig, layout: Layout) -> Path:
    make_demonstrations(config, layout)
    return layout.demonstrations


def test_training_tasks_are_shown_and_no_evaluation_task(world: World) -> None:
    config, layout = world
    turns = made_in(config, layout)
    said = {task.instruction for task in read_tasks(layout, "train")}
    held_back = {
        task.instruction for task in read_tasks(layout, PANELS[config.environment.name])
    } - said
    assert held_back
    prompts = [turn.messages[-1]["content"] for turn in turns]
    assert all(any(text in prompt for text in said) for prompt in prompts)
    assert not any(text in prompt for text in held_back for prompt in prompts)
    episodes = Counter(turn.episode for turn in turns)
    assert any(episode >= FIRST_OPENING for episode in episodes)
    assert {turn.hinted for turn in turns} == {True, False}
    for episode, count in episodes.items():
        assert count <= (1 if episode >= FIRST_OPENING else config.environment.max_turns)


def test_each_task_is_played_once_before_any_is_played_again(world: World) -> None:
    config, layout = world
    ids = {task.id for task in read_tasks(layout, "train")}
    with open_practices(config, layout) as practices:
        assert practices.tasks == len(ids)
        rounds = [
            [practices.episode(start + number).task.id for number in range(len(ids))]
            for start in (0, 7 * len(ids))
        ]
        assert [set(played) for played in rounds] == [ids, ids]
        assert rounds[0] != rounds[1]
        openings = [practices.episode(n, opening=True) for n in range(2)]
        first = config.warm_start.demonstrations.episodes
        assert openings[0].task.id == practices.episode(first).task.id
        assert all(opening.hinted for opening in openings)


def test_what_is_shown_parses_is_on_offer_and_wins(world: World) -> None:
    config, layout = world
    package = environment_package(config.environment.name)
    with open_practices(config, layout) as practices:
        # Of some questions no passage says the answer.
        won, unsolvable = 0, config.environment.name == "searchqa"
        for index in range(12):
            practice = practices.episode(index)
            for _ in range(config.environment.max_turns):
                thought, action = practice.expert_turn()
                parsed = package.parse(package.response(thought, action))
                assert (parsed.action, parsed.valid) == (action, True)
                assert package.is_admissible(action, practice.observation.admissible_actions)
                if practice.step(action).done:
                    break
            won += practice.observation.won
            assert practice.observation.won or practice.stuck or unsolvable
    assert won >= 8


def test_hinted_prompts_differ_from_plain_ones_by_the_skill_alone(world: World) -> None:
    config, layout = world
    shown = {}
    for hinted in (0.0, 1.0):
        other = with_demonstrations(config, hinted=hinted)
        with open_practices(other, layout) as practices:
            turns = [solved_episode(other, practices, n, library_of(other)) for n in range(8)]
        shown[hinted] = [turn for episode in turns for turn in episode]
    skills = library_of(config)(None)
    assert len(shown[0.0]) == len(shown[1.0]) > 0
    for plain, told in zip(shown[0.0], shown[1.0], strict=True):
        assert (plain.hinted, told.hinted) == (False, True)
        assert plain.response == told.response
        assert [m["role"] for m in plain.messages] == ["user"]
        skill = {"role": "system", "content": skills.lookup(plain.task_type).text}
        assert list(told.messages) == [skill, *plain.messages]
        assert "{habits}" not in skill["content"]


def test_the_same_bytes_twice_whatever_the_hashes_and_the_workers(
    world: World, elsewhere: Path
) -> None:
    config, layout = world
    name, file = config.environment.name, "demonstrations.parquet"
    make_demonstrations(config, layout)
    other = Layout(elsewhere / name, config.experiment)
    one, two = (each.demonstrations / file for each in (layout, other))
    assert one.read_bytes() == two.read_bytes()
    if name == "alfworld":
        workers = config.environment.model_copy(update={"workers": 2})
        spread = config.model_copy(update={"environment": workers})
        shown = read_demonstrations(one)
        assert made_in(spread, layout) == shown


def test_whoever_acts_the_expert_goes_on_from_there(world: World) -> None:
    """As in DAgger: several episodes at once, actions that do nothing, mistakes."""
    config, layout = world
    package = environment_package(config.environment.name)
    with open_practices(config, layout) as practices:
        playing = [practices.episode(10_000_000 + n, slot=n) for n in range(6)]
        draw = random.Random(5)
        for number, practice in enumerate(playing):
            for action in ("", "no such thing", practice.mistake(draw))[: 1 + number % 3]:
                practice.step(action)
        for _ in range(config.environment.max_turns + 20):
            for practice in playing:
                if practice.observation.done or practice.stuck:
                    continue
                action = practice.expert_turn()[1]
                assert package.is_admissible(action, practice.observation.admissible_actions)
                practice.step(action)
        least = 1 if config.environment.name == "searchqa" else 5
        assert sum(practice.observation.won for practice in playing) >= least


def with_a_round(world: World, root: Path) -> World:
    """The experiment with a warm start that has a round of relabelling, ready for it."""
    config, made = world
    few = {"updates": 2, "batch": 4, "warmup": 1, "micro_batch": 4, "enabled": True}
    dagger = {"rounds": 1, "episodes": 3, "updates": 2}
    values = config.model_dump()
    values["warm_start"] |= few | {"dagger": values["warm_start"]["dagger"] | dagger}
    values["policy"] |= {"max_response_tokens": 400}
    values["environment"]["max_turns"] = min(4, config.environment.max_turns)
    values["tracking"]["enabled"] = False
    plays = parse_config(values)
    layout = listed(plays, root)
    shutil.copytree(made_folder(config, made), layout.demonstrations)
    return plays, layout


def test_the_policy_plays_real_tasks_and_the_expert_relabels(world: World, tmp_path: Path) -> None:
    config, layout = with_a_round(world, tmp_path)
    warm_start(config, layout)
    turns = read_demonstrations(layout.warm_start / "relabelled" / "round-1.parquet")
    assert {turn.episode for turn in turns} <= {10_000_000 + number for number in range(3)}
    package = environment_package(config.environment.name)
    said = {task.instruction for task in read_tasks(layout, "train")}
    for turn in turns:
        assert package.parse(turn.response).valid
        assert any(text in turn.messages[-1]["content"] for text in said)
    assert (layout.warm_start / "policy").is_dir()


@pytest.mark.slow
def test_rounds_on_other_tasks_are_another_warm_start(
    worlds: Callable[[str], World],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though the demonstrations, which are fewer than the tasks, may be the same."""
    config, layout = with_a_round(worlds("searchqa"), tmp_path)
    warm_start(config, layout)
    tasks = layout.tasks / "tasks.jsonl"
    kept = tasks.read_text().splitlines(keepends=True)
    kept.remove(next(line for line in kept if json.loads(line)["split"] == "train"))
    tasks.write_text("".join(kept))
    warm_start(config, layout)
    assert "was made with other settings or data" in caplog.text
    assert "inputs.tasks" in caplog.text
    tasks.unlink()
    monkeypatch.setattr(warm_policy, "load_policy", None)
    with pytest.raises(SdarError, match=r"environment\.data .*run `sdar tasks` to make it"):
        warm_start(config, layout)


def test_unsolved_tasks_are_left_out_and_counted(
    worlds: Callable[[str], World], caplog: pytest.LogCaptureFixture
) -> None:
    config, layout = worlds("searchqa")
    turns = made_in(config, layout)
    # Of twelve training questions, four have an answer that no passage says.
    assert "did not solve 4 of the 12 training tasks" in caplog.text
    assert len({turn.episode for turn in turns if turn.episode < FIRST_OPENING}) == 8
    assert not any("bells" in turn.messages[-1]["content"] for turn in turns)
    assert not any("unknown" in turn.response for turn in turns)


def test_hardly_any_solved_is_one_sentence(worlds: Callable[[str], World]) -> None:
    config, layout = worlds("alfworld")
    short = config.environment.model_copy(update={"max_turns": 2})
    with pytest.raises(SdarError, match=r"the expert solves .* environment\.max_turns \(2\)") as e:
        make_demonstrations(config.model_copy(update={"environment": short}), layout)
    assert "\n" not in str(e.value)


def test_missing_tasks_and_data_without_training_tasks_are_one_sentence(tmp_path: Path) -> None:
    keys = data_of("searchqa", tmp_path / "data")
    config = configured("searchqa", keys)
    with pytest.raises(SdarError, match=r"run `sdar tasks` to make it"):
        make_demonstrations(config, Layout(tmp_path, "real"))
    (tmp_path / "data" / "nq_train.jsonl").unlink()
    layout = listed(config, tmp_path)
    with pytest.raises(SdarError, match=r"environment\.data .*no split 'train'"):
        make_demonstrations(config, layout)


def test_data_with_a_train_split_alone_will_do(tmp_path: Path) -> None:
    keys = data_of("searchqa", tmp_path / "data")
    (tmp_path / "data" / "nq_test.jsonl").unlink()
    config = configured("searchqa", keys, panel="train", episodes=100)
    turns = made_in(config, listed(config, tmp_path))
    # Fewer training tasks than episodes: they come again.
    assert len({turn.episode for turn in turns if turn.episode < FIRST_OPENING}) > 60


def test_a_game_in_peoples_own_words_is_left_out(tmp_path: Path) -> None:
    keys = data_of("alfworld", tmp_path / "data")
    games = sorted((tmp_path / "data").glob("json_2.1.1/train/*/*/game.tw-pddl"))
    text = games[0].read_text()
    start = text.index("Your task is to: ") + len("Your task is to: ")
    end = start + min(text[start:].index('"'), text[start:].index("\\"))
    games[0].write_text(f"{text[:start]}Tidy up nicely{text[end:]}")
    config = configured("alfworld", keys, openings=0)
    turns = made_in(config, listed(config, tmp_path))
    assert turns
    assert not any("Tidy up" in turn.messages[-1]["content"] for turn in turns)


SHARED = {
    "alfworld": ({"max_turns": 50}, 0.8),
    "webshop": ({"goals": {"train": 400, "test": 50}, "max_turns": 15}, 0.7),
    "searchqa": ({}, 0.15),
}


@pytest.mark.parametrize("name", NAMES)
def test_shared_data_are_played(name: str, shared: Path, tmp_path: Path) -> None:
    given, least = SHARED[name]
    folder = shared / "data" / name
    if name == "alfworld":
        with tarfile.open(folder / "json_2.1.1.tar.xz") as archive:
            archive.extractall(tmp_path / "data", filter="data")
        folder = tmp_path / "data"
    elif name == "searchqa":
        (tmp_path / "data").mkdir()
        for source in ("nq", "hotpotqa"):
            lines = (folder / f"{source}.jsonl").read_text().splitlines(keepends=True)
            for split, some in (("train", lines[:200]), ("test", lines[200:])):
                (tmp_path / "data" / f"{source}_{split}.jsonl").write_text("".join(some))
        given = {"retriever": {"passages": str(folder / "passages.jsonl")}}
        folder = tmp_path / "data"
    config = configured(name, {"data": str(folder), **given}, episodes=24, openings=4)
    layout = listed(config, tmp_path)
    libraries, package = library_of(config), environment_package(name)
    with open_practices(config, layout) as practices:
        episodes = [solved_episode(config, practices, index, libraries) for index in range(24)]
    assert sum(map(bool, episodes)) >= least * 24
    for turns in episodes:
        for turn in turns:
            assert package.parse(turn.response).valid
