"""Homes: drawn by seed alone, kept in JSON, told in the engine's words."""

import json
from importlib.util import find_spec
from itertools import pairwise

import pytest

from sdar.environments.alfworld.config import ALFWORLD_TASK_TYPES
from sdar.environments.alfworld.world import scenes, vocabulary
from sdar.environments.alfworld.world.home import Home
from sdar.errors import SdarError

# Not importorskip: importing alfworld creates a data folder in the user's home.
if find_spec("alfworld") is None:
    pytest.skip("games are made from the scenes of the alfworld wheel", allow_module_level=True)


@pytest.mark.parametrize("size", ["small", "full"])
def test_usual_places_are_allowed_and_cover_what_tasks_ask_for(size: str) -> None:
    home = Home.draw(3, size=size)
    for usual in home.usual.values():
        for kind, place in usual.items():
            if kind != "DeskLamp":  # alfworld's table says nothing of lamps
                assert kind in scenes.holds()[place]
    for task_type, rooms in vocabulary.TASK_OBJECTS.items():
        told = home.usual_places(task_type)
        for kinds in rooms.values():
            assert {kind.lower() for kind in kinds} <= set(told)


def test_same_seed_same_home_and_seeds_are_independent() -> None:
    assert Home.draw(7) == Home.draw(7)
    places = {Home.draw(seed).usual["kitchen"]["Mug"] for seed in range(40)}
    # Every class that may hold a mug turns up.
    assert places == {p for p in vocabulary.USUAL["kitchen"] if "Mug" in scenes.holds()[p]}
    # Knowing where one home keeps mugs says nothing about where the next one does.
    kept = [Home.draw(seed).usual["kitchen"]["Mug"] for seed in range(400)]
    by_chance = sum((kept.count(place) / len(kept)) ** 2 for place in places)
    alike = sum(first == second for first, second in pairwise(kept)) / (len(kept) - 1)
    assert abs(alike - by_chance) < 0.07


def test_every_usual_class_exists_in_the_held_out_scene() -> None:
    for room, number in scenes.UNSEEN_SCENES.items():
        assert set(vocabulary.USUAL[room]) <= scenes.scene(number).receptacle_kinds


def test_home_survives_json(tmp_path) -> None:
    home = Home.draw(5, habit=0.7)
    home.write(tmp_path / "home.json")
    assert Home.read(tmp_path / "home.json") == home
    assert json.loads((tmp_path / "home.json").read_text())["habit"] == 0.7


def test_unreadable_home_names_the_file(tmp_path) -> None:
    (tmp_path / "home.json").write_text('{"seed": 1')
    with pytest.raises(SdarError, match=r"home\.json"):
        Home.read(tmp_path / "home.json")


@pytest.mark.parametrize("task_type", ALFWORLD_TASK_TYPES)
def test_habits_text_is_one_short_regular_line(task_type: str) -> None:
    home = Home.draw(0)
    text = home.habits_text(task_type)
    assert text.startswith("Usual places are ")
    assert text.endswith(".")
    assert text == text.replace("\n", "")
    told = dict(part.split(": ") for part in text[len("Usual places are ") : -1].split("; "))
    assert {kind: (place,) for kind, place in told.items()} == home.usual_places(task_type)
    assert len(told) <= 10


def test_unknown_task_type_is_refused() -> None:
    with pytest.raises(SdarError, match="pick_nothing"):
        Home.draw(0).habits_text("pick_nothing")
