"""Reading ALFWorld's folder layout."""

import json
import re
import shutil
import time
from pathlib import Path

import pytest

from sdar.environments.alfworld.config import AlfworldConfig
from sdar.environments.alfworld.engine.loader import load_tasks
from sdar.environments.alfworld.tasks import make_tasks
from sdar.errors import SdarError

GAME = {
    "pddl_domain": "(define (domain alfred))",
    "grammar": '"task": [ { "rhs": "Your task is to: put a mug in desk." } ]',
    "pddl_problem": "(define (problem p))",
    "solvable": True,
    "walkthrough": ["look"],
}


def write(data: Path, identity: str, task_type: str = "pick_and_place_simple", **changes) -> Path:
    folder = data / "json_2.1.1" / identity
    folder.mkdir(parents=True)
    game = {key: value for key, value in {**GAME, **changes}.items() if value != "absent"}
    (folder / "game.tw-pddl").write_text(json.dumps(game))
    trajectory = {"scene": {"floor_plan": "FloorPlan1"}, "task_type": task_type}
    (folder / "traj_data.json").write_text(json.dumps(trajectory))
    return folder


def test_tasks_are_described_and_sorted(tmp_path: Path) -> None:
    write(tmp_path, "train/pick_and_place_simple-Mug-None-Desk-301/trial_B")
    write(tmp_path, "train/pick_and_place_simple-Mug-None-Desk-301/trial_A")
    write(
        tmp_path, "train/look_at_obj_in_light-Mug-None-DeskLamp-301/trial_A", "look_at_obj_in_light"
    )
    write(tmp_path, "valid_seen/pick_and_place_simple-Mug-None-Desk-301/trial_C")
    tasks = load_tasks(tmp_path, "train")
    assert [task.id for task in tasks] == [
        "train/look_at_obj_in_light-Mug-None-DeskLamp-301/trial_A",
        "train/pick_and_place_simple-Mug-None-Desk-301/trial_A",
        "train/pick_and_place_simple-Mug-None-Desk-301/trial_B",
    ]
    last = tasks[-1]
    assert (last.split, last.task_type) == ("train", "pick_and_place_simple")
    assert last.instruction == "put a mug in desk."
    assert last.location == str(tmp_path / "json_2.1.1" / last.id / "game.tw-pddl")
    assert [t.task_type for t in load_tasks(tmp_path, "train", ("look_at_obj_in_light",))] == [
        "look_at_obj_in_light"
    ]


def test_what_alfworld_leaves_out_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, "train/pick_and_place_simple-Mug-None-Desk-301/trial_A")
    write(tmp_path, "train/pick_and_place_simple-Mug-None-Desk-301/trial_B", solvable=False)
    write(tmp_path, "train/pick_and_place_simple-Mug-None-Desk-301/trial_C", solvable="absent")
    write(tmp_path, "train/pick_and_place_with_movable_recep-Mug-Pan-Desk-3/trial_D")
    write(tmp_path, "train/pick_and_place_simple-TomatoSliced-None-Desk-3/trial_E")
    lone = write(tmp_path, "train/pick_and_place_simple-Mug-None-Desk-301/trial_F")
    (lone / "game.tw-pddl").unlink()
    assert [task.id[-1] for task in load_tasks(tmp_path, "train")] == ["A"]


def test_the_filter_looks_below_the_data_folder_only(tmp_path: Path) -> None:
    data = tmp_path / "movable_disk"
    write(data, "train/pick_and_place_simple-Mug-None-Desk-301/trial_A")
    assert len(load_tasks(data, "train")) == 1


def test_missing_data_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        SdarError, match=r"environment\.data: no folder .*valid_seen: run alfworld-d"
    ):
        load_tasks(tmp_path, "valid_seen")
    write(tmp_path, "train/pick_and_place_simple-Mug-None-Desk-301/trial_A", solvable=False)
    with pytest.raises(SdarError, match="no solvable game in"):
        load_tasks(tmp_path, "train")
    with pytest.raises(SdarError, match="no solvable game of type look_at_obj_in_light in"):
        load_tasks(tmp_path, "train", ("look_at_obj_in_light",))


def alfworld_grammar(**changes: str) -> str:
    """The grammar of the installed alfworld with other words for some commands, as in a game."""
    from sdar.environments.alfworld.world.scenes import wheel

    text = (wheel() / "data" / "alfred.twl2").read_text()
    for before, after in changes.items():
        assert f'template :: "{before} ' in text
        text = re.sub(f'template :: "{before} .*"', f'template :: "{after}"', text)
    return text.replace("UNKNOWN GOAL", "put a mug in desk.")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"move": "put {o} in/on {r}"}, r"no command `move _ to _`.*\(it has .*put _ in/on _"),
        ({"go": "walk to {r}"}, r"no command `go to _`.*walk to _"),
        ({"take": "pick up {o}"}, r"no command `take _ from _`.*pick up _"),
        ({"use": "toggle {o}"}, r"no command `use _`.*toggle _"),
        ({"heat": "heat {o}", "cool": "cool {o}"}, r"no command `heat _ with _`.*cool _, heat _"),
    ],
)
def test_games_of_another_packaging_are_refused_by_name(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    """Skills and expert say `move`; in older games nothing would ever be put down."""
    pytest.importorskip("alfworld", reason='needs pip install "sdar[alfworld]"')
    name = "train/pick_and_place_simple-Mug-None-Desk-301/trial_"
    write(tmp_path, f"{name}A", grammar=alfworld_grammar())
    assert len(load_tasks(tmp_path, "train")) == 1
    folder = write(tmp_path, f"{name}B", grammar=alfworld_grammar(**changes))
    with pytest.raises(SdarError, match=message) as told:
        load_tasks(tmp_path, "train")
    assert str(folder / "game.tw-pddl") in str(told.value)
    assert "alfworld-download" in str(told.value)


def test_sentences_of_people_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = "train/pick_and_place_simple-Mug-None-Desk-301/trial_"
    write(tmp_path, f"{name}A")
    written = '"rhs": "Your task is to: Bring the cup over there."'
    write(tmp_path, f"{name}B", grammar=written)
    tasks, _ = make_tasks(AlfworldConfig(data=tmp_path), (), tmp_path)
    assert len(tasks) == 2
    (said,) = [record.getMessage() for record in caplog.records]
    assert "the tasks of 1 of 2 games follow none of ALFWorld's" in said
    assert f"{name}B: Bring the cup over there." in said


@pytest.mark.parametrize("name", ["game.tw-pddl", "traj_data.json"])
def test_a_file_cut_in_half_is_named(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, "train/pick_and_place_simple-Mug-None-Desk-301/trial_A")
    text = (folder / name).read_text()
    (folder / name).write_text(text[: len(text) // 2])
    with pytest.raises(SdarError, match=rf"{name} is cut short .*sdar tasks, or fetch it again"):
        load_tasks(tmp_path, "train")


def test_real_games_are_read_fast_and_completely(shared: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(shared / "data" / "alfworld" / "json_2.1.1.tar.xz", tmp_path)
    load_tasks(tmp_path, "train")
    start = time.process_time()
    counts = {split: len(load_tasks(tmp_path, split)) for split in ("train", "valid_seen")}
    # 3,553 games in a few seconds: about a millisecond each.
    assert time.process_time() - start < 440 * 0.005
    assert counts == {"train": 300, "valid_seen": 140}
    transcripts = json.loads((shared / "goldens" / "alfworld_transcripts.json").read_text())
    known = {task.id: task for task in load_tasks(tmp_path, "valid_seen")}
    for episode in transcripts:
        task = known[episode["game"].removeprefix("json_2.1.1/").removesuffix("/game.tw-pddl")]
        assert (task.task_type, task.instruction) == (episode["task_type"], episode["task"])
