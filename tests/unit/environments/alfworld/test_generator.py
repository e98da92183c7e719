"""Generated games: deterministic, in their splits' scenes, of the promised sizes."""

import os
import statistics
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from sdar.config.models import ExperimentConfig
from sdar.environments import tasks as stage
from sdar.environments.alfworld import tasks as tasks_stage
from sdar.environments.alfworld.config import ALFWORLD_TASK_TYPES, AlfworldConfig, GameCounts
from sdar.environments.alfworld.world import pddl, scenes, small, vocabulary
from sdar.environments.alfworld.world.abstract import Game, names_of
from sdar.environments.alfworld.world.generator import SPLITS, abstract_game
from sdar.environments.alfworld.world.home import Home
from sdar.errors import SdarError
from sdar.layout import Layout

# Not importorskip: importing alfworld creates a data folder in the user's home.
if find_spec("alfworld") is None:
    pytest.skip("games are made from the scenes of the alfworld wheel", allow_module_level=True)

HOMES = {"small": Home.draw(0), "full": Home.draw(0, size="full")}


def game(split: str, index: int, size: str = "small", seed: int = 0) -> Game:
    return abstract_game(seed, split, index, HOMES[size], ALFWORLD_TASK_TYPES, train_games=60)


@pytest.mark.parametrize("size", ["small", "full"])
def test_a_game_is_a_function_of_its_numbers(size: str) -> None:
    assert pddl.problem_text(game("train", 4, size)) == pddl.problem_text(game("train", 4, size))
    assert game("train", 4, size).id != game("train", 10, size).id
    assert game("train", 4, size).id != game("train", 4, size, seed=1).id


@pytest.mark.parametrize("size", ["small", "full"])
def test_splits_keep_to_their_scenes_and_combinations(size: str) -> None:
    games = {split: [game(split, index, size) for index in range(60)] for split in SPLITS}
    held_out = set(scenes.UNSEEN_SCENES.values())
    assert {g.scene for g in games["valid_unseen"]} <= held_out
    assert not {g.scene for g in games["train"] + games["valid_seen"]} & held_out
    train = {g.combination for g in games["train"]}
    assert {g.combination for g in games["valid_seen"]} <= train
    ids = [g.id for split in SPLITS for g in games[split]]
    assert len(set(ids)) == len(ids)
    placements = {g.items for g in games["train"]}
    assert not placements & {g.items for g in games["valid_seen"]}


def test_task_types_take_turns_and_no_stride_picks_one() -> None:
    types = [game("train", index).task_type for index in range(60)]
    assert set(Counter(types).values()) == {10}
    for stride in (2, 3, 6):
        assert len(set(types[::stride])) == 6


def test_valid_unseen_uses_all_four_held_out_scenes() -> None:
    found = {game("valid_unseen", index).scene for index in range(134)}
    assert found == set(scenes.UNSEEN_SCENES.values())


def test_small_rooms_are_small_and_have_what_the_task_needs() -> None:
    openable = scenes.properties()["openable"]
    shares, kept = [], []
    for index in range(300):
        g = abstract_game(5, "train", index, HOMES["small"], ALFWORLD_TASK_TYPES, 300)
        kinds = Counter(r.kind for r in g.receptacles)
        room = scenes.room_of(g.scene)
        hosts = {r.id: r.kind for r in g.receptacles}
        copies = [item for item in g.items if item.kind == g.target]
        usual = HOMES["small"].usual[room][g.target]
        assert small.FEWEST_RECEPTACLES <= len(g.receptacles) <= small.RECEPTACLES[1]
        assert 4 <= len(g.items) <= small.OBJECTS[1]
        assert kinds[usual]
        assert len({r.location for r in g.receptacles} | {g.start}) == len(g.receptacles) + 1
        if g.goal:
            assert kinds[g.goal]
            assert all(hosts[item.host] != g.goal for item in copies)
        assert g.task_type not in vocabulary.APPLIANCE or kinds[vocabulary.APPLIANCE[g.task_type]]
        assert len(copies) in ((2,) if "two" in g.task_type else (1, 2))
        assert all(int(name.split()[1]) <= 3 for name in names_of(g).values())
        assert all(
            item.kind in scenes.holds()[hosts[item.host]] or item.kind == "DeskLamp"
            for item in g.items
        )
        shares.append(sum(r.kind in openable for r in g.receptacles) / len(g.receptacles))
        kept += [hosts[item.host] == usual for item in copies]
    assert 0.3 <= statistics.mean(shares) <= 0.5
    assert abs(statistics.mean(kept) - 0.85) < 0.04


def test_small_problem_declares_only_what_it_uses() -> None:
    text = pddl.problem_text(game("train", 0))
    assert len(text) < 14_000
    assert text.count(" - rtype") <= 12
    assert text.count(" - otype") <= 12


# Section 9 of the ALFWorld notes, over 4,026 real games: receptacles and objects in the scene
# (median), share of objects that start inside closed receptacles.
REAL = {
    "kitchen": (33, 55, 0.28),
    "livingroom": (14, 31, 0.05),
    "bedroom": (14, 33, 0.12),
    "bathroom": (14, 27, 0.17),
}


@pytest.mark.slow
def test_full_rooms_look_like_real_ones(capsys) -> None:
    openable = scenes.properties()["openable"]
    rooms: dict[str, list[Game]] = {room: [] for room in REAL}
    copies: list[int] = []
    for index in range(300):
        g = abstract_game(0, "train", index, HOMES["full"], ALFWORLD_TASK_TYPES, 300)
        rooms[scenes.room_of(g.scene)].append(g)
        copies.append(sum(item.kind == g.target for item in g.items))
    lines = ["| room | receptacles (real) | objects (real) | inside closed ones (real) |"]
    for room, games in rooms.items():
        receptacles = statistics.median(len(g.receptacles) for g in games)
        objects = statistics.median(len(g.items) for g in games)
        hosts = {(g.trial, r.id): r.kind for g in games for r in g.receptacles}
        placed = [(g.trial, i.host) for g in games for i in g.items if i.host is not None]
        closed = sum(hosts[place] in openable for place in placed) / len(placed)
        real = REAL[room]
        lines.append(
            f"| {room} | {receptacles} ({real[0]}) | {objects} ({real[1]}) "
            f"| {closed:.2f} ({real[2]}) |"
        )
        assert abs(receptacles - real[0]) <= 0.3 * real[0]
        assert abs(objects - real[1]) <= 0.25 * real[1]
        assert abs(closed - real[2]) <= 0.08
    assert min(copies) == 2
    assert 3 <= statistics.mean(copies) <= 4
    with capsys.disabled():
        print("\n" + "\n".join(lines))


def layout_of(root: Path) -> tuple[ExperimentConfig, Layout]:
    environment = AlfworldConfig(games=GameCounts(train=6, valid_seen=2, valid_unseen=2))
    config = ExperimentConfig(environment=environment)
    return config, Layout(root, config.experiment)


def test_tasks_stage_writes_won_games_and_reads_them_back(tmp_path, monkeypatch) -> None:
    pytest.importorskip("textworld", reason="games are accepted on the TextWorld engine")
    monkeypatch.setattr(tasks_stage, "_workers", lambda: 1)
    config, layout = layout_of(tmp_path)
    stage.make_tasks(config.environment, config.evaluation.panels, layout)
    train = stage.read_tasks(layout, "train")
    assert sorted(task.task_type for task in train) == sorted(ALFWORLD_TASK_TYPES)
    assert all(Path(task.location).is_file() for task in train)
    assert all(task.instruction.endswith(".") for task in train)
    assert tasks_stage.read_home(layout.tasks) == Home.draw(0)
    assert "| train | 6 |" in (layout.tasks / "tasks.md").read_text()
    with pytest.raises(SdarError, match="valid_train"):
        stage.read_tasks(layout, "valid_train")

    # The same folder is real ALFWorld data to a configuration that points at it.
    found = list(tasks_stage.find_tasks(layout.tasks, ALFWORLD_TASK_TYPES))
    assert {task.id: task.instruction for task in found if task.split == "train"} == {
        task.id: task.instruction for task in train
    }

    # A second run replaces the first, and one that fails leaves it as it was.
    before = (layout.tasks / "tasks.jsonl").read_bytes()
    stage.make_tasks(config.environment, config.evaluation.panels, layout)
    assert (layout.tasks / "tasks.jsonl").read_bytes() == before

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tasks_stage, "make_games", fail)
    with pytest.raises(KeyboardInterrupt):
        stage.make_tasks(config.environment, config.evaluation.panels, layout)
    assert (layout.tasks / "tasks.jsonl").read_bytes() == before
    assert [path.name for path in layout.tasks.parent.iterdir()] == ["tasks"]


def test_missing_and_corrupt_data_are_named(tmp_path) -> None:
    with pytest.raises(SdarError, match=r"environment\.data.*alfworld-download"):
        list(tasks_stage.find_tasks(tmp_path, ALFWORLD_TASK_TYPES))
    for split in SPLITS:
        folder = tmp_path / "json_2.1.1" / split / "pick_and_place_simple-Mug-None-Desk-301" / "t"
        folder.mkdir(parents=True)
        (folder / "game.tw-pddl").write_text('{"grammar": "Your task')
    with pytest.raises(SdarError, match="pick_and_place_simple-Mug-None-Desk-301"):
        list(tasks_stage.find_tasks(tmp_path, ALFWORLD_TASK_TYPES))


def test_reading_before_the_stage_names_the_remedy(tmp_path) -> None:
    _, layout = layout_of(tmp_path)
    with pytest.raises(SdarError, match="sdar tasks"):
        stage.read_tasks(layout, "train")


def test_nothing_depends_on_hash_order(repository: Path) -> None:
    program = (
        "import hashlib\n"
        "from sdar.environments.alfworld.config import ALFWORLD_TASK_TYPES as types\n"
        "from sdar.environments.alfworld.world import pddl, generator\n"
        "from sdar.environments.alfworld.world.home import Home\n"
        "digest = hashlib.sha256()\n"
        "for size in ('small', 'full'):\n"
        "    home = Home.draw(4, size=size)\n"
        "    for split in generator.SPLITS:\n"
        "        for index in range(6):\n"
        "            game = generator.abstract_game(1, split, index, home, types, 6)\n"
        "            digest.update(pddl.problem_text(game).encode())\n"
        "print(digest.hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(repository / "src")},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
