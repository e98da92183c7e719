"""Recorded cases of the original WebShop: every page, list, ranking and reward, in order."""

import copy
import json
from pathlib import Path

import pytest

from sdar.cli.replay import replay
from sdar.environments.webshop.engine.catalogue import Catalogue
from sdar.environments.webshop.replay import replay_ranks, replay_rewards, replay_transcripts
from sdar.errors import SdarError


@pytest.fixture(scope="module")
def data(shared: Path) -> Path:
    return shared / "data" / "webshop"


@pytest.fixture(scope="module")
def catalogue(data: Path) -> Catalogue:
    return Catalogue.open(data, seed=0)


def cases(shared: Path, name: str):
    return json.loads((shared / "goldens" / f"webshop_{name}.json").read_text())


@pytest.mark.parametrize(
    ("name", "count"), [("transcripts", 350), ("ranks", 150), ("rewards", 300)]
)
def test_all_cases_match(shared: Path, data: Path, name: str, count: int) -> None:
    report = replay(shared / "goldens" / f"webshop_{name}.json", "webshop", data)
    assert report.lines() == [f"{count} checked, 0 mismatches"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("observation", "Search"), ("reward", 0.5), ("done", True), ("clickables", ["search"])],
)
def test_a_different_step_is_found(shared: Path, catalogue: Catalogue, key: str, value) -> None:
    episode = copy.deepcopy(cases(shared, "transcripts")[0])
    episode["steps"][0][key] = value
    report = replay_transcripts([episode], catalogue)
    assert report.mismatches == 1
    assert "step 0" in report.details[0]


def test_order_of_clickables_and_ranks_counts(shared: Path, catalogue: Catalogue) -> None:
    episode = copy.deepcopy(cases(shared, "transcripts")[0])
    episode["steps"][0]["clickables"].reverse()
    assert replay_transcripts([episode], catalogue).mismatches == 1
    query, asins = next(iter(cases(shared, "ranks").items()))
    assert replay_ranks({query: asins[::-1]}, catalogue).mismatches == 1


def test_a_reward_that_is_off_by_a_part_is_found(shared: Path, catalogue: Catalogue) -> None:
    row = copy.deepcopy(cases(shared, "rewards")[0])
    row["expected"]["title_score"] += 1e-12
    assert replay_rewards([row], catalogue).mismatches == 1


def test_cases_for_another_environment_are_refused(shared: Path, data: Path) -> None:
    with pytest.raises(SdarError, match="use --environment webshop"):
        replay(shared / "goldens" / "webshop_ranks.json", "alfworld", data)


def test_full_transcripts_survive_the_cache(shared: Path, data: Path, tmp_path: Path) -> None:
    Catalogue.open(data, seed=0, cache=tmp_path)
    mapped = Catalogue.open(data, seed=0, cache=tmp_path)
    assert replay_transcripts(cases(shared, "transcripts"), mapped).mismatches == 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_real_goals_are_as_many_as_the_original_makes(data: Path, catalogue: Catalogue) -> None:
    assert len(catalogue) == 1000
    assert len(catalogue.goals) == 6910
    assert len({goal.asin for goal in catalogue.goals}) == 415
    assert len(Catalogue.open(data, seed=0, human_goals=True).goals) == 13


def test_goals_are_the_original_ones_but_for_the_price(shared: Path, catalogue: Catalogue) -> None:
    """Every recorded goal is among ours, with its weight; only the ceiling is drawn otherwise."""
    ours = {}
    for goal in catalogue.goals:
        ours[goal.asin, tuple(goal.goal_options.items())] = goal
    for episode in cases(shared, "transcripts"):
        goal = episode["goal"]
        mine = ours[goal["asin"], tuple(goal["goal_options"].items())]
        assert mine.weight == goal["weight"]
        assert list(mine.attributes) == goal["attributes"]
        text = goal["instruction_text"].partition(", and price lower")[0]
        assert mine.instruction_text.partition(", and price lower")[0] == text


def test_memory_of_the_catalogue(catalogue: Catalogue) -> None:
    """1,000 products with their index: a few megabytes of text and arrays."""
    assert catalogue.bytes < 8_000_000
