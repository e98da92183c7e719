"""Demonstrations: who plays what with which hint, what is worth imitating, and the file."""

import random
import subprocess
import sys
from collections import defaultdict
from importlib.util import find_spec
from itertools import pairwise

import polars as pl
import pytest

from sdar.config import Layout, parse_config
from sdar.environments.alfworld.practice import practice
from sdar.environments.base import FIRST_OPENING
from sdar.environments.practices import WorldPractices
from sdar.errors import SdarError
from sdar.training.demonstrations import (
    Player,
    expert_episode,
    library_of,
    make_demonstrations,
    read_demonstrations,
    write_demonstrations,
)

# Not importorskip: importing alfworld creates a data folder in the user's home.
if find_spec("alfworld") is None:
    pytest.skip("games are made from the scenes of the alfworld wheel", allow_module_level=True)


COUNTS = {"worlds": 20, "episodes": 60, "openings": 9}


def configuration(**demonstrations):
    return parse_config(
        {
            "experiment": "shown",
            "environment": {"max_turns": 12},
            "warm_start": {"demonstrations": {**COUNTS, **demonstrations}},
        }
    )


CONFIG = configuration()
SKILLS = library_of(CONFIG)


def shown(config, index):
    return list(expert_episode(config, WorldPractices(config), index, library_of(config)))


EPISODES = {index: shown(CONFIG, index) for index in range(60)}


def played(config, index):
    """The labels of an episode played again by hand, with what was admissible at each turn."""
    player = Player(config, WorldPractices(config), index, SKILLS)
    rng = random.Random(f"mistakes/{config.warm_start.demonstrations.seed}/{index}")
    while True:
        turn, action = player.demonstrate()
        yield turn, action, player.practice.observation.admissible_actions
        if rng.random() < config.warm_start.demonstrations.mistakes:
            action = rng.choice(player.practice.observation.admissible_actions)
        if player.step(action):
            return


def test_what_is_to_be_imitated_is_admissible_and_keeps_the_form():
    for index, turns in EPISODES.items():
        for turn, (_, action, admissible) in zip(turns, played(CONFIG, index), strict=False):
            assert action in admissible
            assert turn.response.startswith("<think>")
            assert turn.response.endswith(f"</think><action>{action}</action>")
            assert f"'{action}'" in turn.messages[-1]["content"]


def test_episodes_count_their_turns_and_end():
    limit = CONFIG.environment.max_turns + 2
    for index, turns in EPISODES.items():
        assert [turn.turn for turn in turns] == list(range(len(turns)))
        assert 1 <= len(turns) <= limit
        assert {turn.episode for turn in turns} == {index}
    assert sum(len(turns) < limit for turns in EPISODES.values()) > 0.7 * len(EPISODES)


def test_without_mistakes_every_label_is_carried_out():
    config = configuration(mistakes=0.0)
    turns = shown(config, 3)
    for before, after in pairwise(turns):
        action = before.response.split("<action>")[1].removesuffix("</action>")
        assert f"You did: {action}" in after.messages[-1]["content"]
    always = shown(configuration(mistakes=1.0), 3)
    assert [t.response for t in always] != [t.response for t in turns]


def test_the_skill_is_in_hinted_prompts_and_in_no_other():
    seen = set()
    for index, turns in EPISODES.items():
        case = practice(CONFIG, index)
        skill = SKILLS(case.home).lookup(case.game.task_type).text
        for turn in turns:
            assert turn.hinted == case.hinted
            roles = [message["role"] for message in turn.messages]
            assert roles == (["system", "user"] if case.hinted else ["user"])
            if case.hinted:
                assert turn.messages[0]["content"] == skill
        seen.add(case.hinted)
        assert "Usual places are" not in turns[0].messages[-1]["content"]
    assert seen == {True, False}


@pytest.mark.slow
@pytest.mark.parametrize("hinted", [0.0, 0.3, 0.5, 1.0])
def test_share_of_hinted_episodes_is_as_configured_for_every_type_and_home(hinted):
    config = configuration(hinted=hinted, worlds=6)
    by_type, by_home = defaultdict(list), defaultdict(list)
    for index in range(1200):
        case = practice(config, index)
        by_type[case.game.task_type].append(case.hinted)
        by_home[case.home.seed].append(case.hinted)
    assert len(by_type) == len(by_home) == 6
    for share in (*by_type.values(), *by_home.values()):
        # 200 draws: four standard errors.
        error = 4 * (hinted * (1 - hinted) / len(share)) ** 0.5
        assert abs(sum(share) / len(share) - hinted) <= error


@pytest.mark.slow
def test_every_home_shows_every_task_type():
    kinds = defaultdict(set)
    for index in range(20 * 36):
        case = practice(CONFIG, index)
        kinds[case.home.seed].add(case.game.task_type)
    assert len(kinds) == 20
    assert {len(of_kind) for of_kind in kinds.values()} == {6}


def test_homes_are_not_those_one_trains_in():
    for index in (0, 19, 20, 10_000_003):
        assert practice(CONFIG, index).home.seed >= 1_000_000


def test_episodes_are_functions_of_configuration_and_number():
    again = shown(CONFIG, 7)
    assert again == EPISODES[7]
    other = shown(configuration(seed=7), 7)
    assert other != EPISODES[7]


def test_parquet_gives_back_what_was_written(tmp_path):
    turns = [turn for index in range(12) for turn in EPISODES[index]]
    write_demonstrations(tmp_path / "d.parquet", turns)
    assert read_demonstrations(tmp_path / "d.parquet") == turns
    assert [path.name for path in tmp_path.iterdir()] == ["d.parquet"]
    unhinted = [turn for turn in turns if not turn.hinted]
    write_demonstrations(tmp_path / "d.parquet", unhinted)
    assert read_demonstrations(tmp_path / "d.parquet") == unhinted


def test_stage_writes_the_same_files_twice(tmp_path):
    config = configuration(episodes=12)
    files = ("demonstrations.parquet", "tokenizer/tokenizer.json")
    for name in ("one", "two"):
        make_demonstrations(config, Layout(tmp_path / name, "shown"))
    folders = [Layout(tmp_path / name, "shown").demonstrations for name in ("one", "two")]
    for name in files:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    turns = read_demonstrations(folders[0] / "demonstrations.parquet")
    first = [turn for index in range(12) for turn in shown(config, index)]
    assert turns[: len(first)] == first
    assert len(turns) == len(first) + 9


def test_openings_are_hinted_first_turns_in_homes_of_their_own():
    cases = [practice(CONFIG, number, opening=True) for number in range(30)]
    homes = {case.home.seed for case in cases}
    assert len(homes) == 30
    assert homes.isdisjoint(practice(CONFIG, index).home.seed for index in range(60))
    assert len({case.task.id for case in cases}) == 30
    assert len({case.game.task_type for case in cases}) == 6
    for number in range(30):
        player = Player(CONFIG, WorldPractices(CONFIG), number, SKILLS, opening=True)
        turn, action = player.demonstrate()
        assert turn.episode == FIRST_OPENING + number
        assert (turn.turn, turn.hinted, turn.messages[0]["role"]) == (0, True, "system")
        assert f"'{action}'" in turn.messages[-1]["content"]


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "text", "other columns"])
def test_a_missing_or_broken_file_is_one_sentence(damage, tmp_path):
    path = tmp_path / "demonstrations.parquet"
    write_demonstrations(path, EPISODES[0])
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "other columns":
        pl.DataFrame({"episode": [1]}).write_parquet(path)
    else:
        path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "text": b"abc"}[damage])
    with pytest.raises(SdarError, match=r"cannot be read .*make it with `sdar demonst") as caught:
        read_demonstrations(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_expert_plays_without_torch() -> None:
    """Loading it takes longer than the demonstrations of a small experiment. Older versions of
    transformers load it with any tokenizer."""
    program = (
        "import sys; from transformers import PreTrainedTokenizerFast; "
        "before = 'torch' in sys.modules; import sdar.training.demonstrations; "
        "print('torch' in sys.modules and not before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "False\n"
