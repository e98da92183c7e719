"""A run that goes on has each step before once in every record, whatever happened to them."""

import json
import logging
import os
import shutil
from pathlib import Path

import polars as pl
import pytest
import trainer_world

from sdar.errors import SdarError
from sdar.files import lines

STEPS = {"steps": 4, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return trainer_world.run(tmp_path_factory.mktemp("finished"), **STEPS)


@pytest.fixture
def folder(finished, tmp_path):
    """The run as it was after its third step, killed in the fourth: a checkpoint at 2."""
    folder = tmp_path / "runs" / "world" / "sdar" / "seed-0"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "policy")
    shutil.rmtree(folder / "checkpoints" / "step-00004")
    for name in ("metrics.jsonl", "timings.jsonl"):
        lines.truncate(folder / name, 3)
    return folder


def assert_whole(folder: Path, finished: Path) -> None:
    for name in ("metrics.jsonl", "policy/model.safetensors"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes(), name
    assert lines.steps(lines.sound(folder / "timings.jsonl", 99)) == [0, 1, 2, 3]
    assert all(record["total_s"] > 0 for record in lines.read(folder / "timings.jsonl"))
    episodes = pl.read_parquet(folder / "episodes.parquet")
    assert episodes.equals(pl.read_parquet(finished / "episodes.parquet"))


def swap(path):
    first, second, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([second, first, *rest]))


def in_its_place(path):
    """A link to nowhere: readers fail, and a new file can take its place."""
    path.unlink()
    path.symlink_to("nowhere")


DAMAGES = {
    "deleted": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "first line lost": lambda p: p.write_bytes(b"".join(p.read_bytes().splitlines(True)[1:])),
    "last line lost": lambda p: p.write_bytes(b"".join(p.read_bytes().splitlines(True)[:1])),
    "doubled": lambda path: path.write_bytes(2 * path.read_bytes()),
    "wrong order": swap,
    "no step": lambda p: p.write_bytes(p.read_bytes().replace(b'"step": 1', b'"stop": 1')),
    "step is text": lambda p: p.write_bytes(p.read_bytes().replace(b'"step": 1', b'"step": "1"')),
    "another value": lambda p: p.write_bytes(p.read_bytes().replace(b'": 0.', b'": 1.', 1)),
    "half a line": lambda path: path.write_bytes(path.read_bytes()[:300]),
    "junk": lambda path: path.write_bytes(os.urandom(999)),
    "junk first": lambda path: path.write_bytes(b"\xff\xfe\0\n" + path.read_bytes()),
    "zeros behind": lambda path: path.write_bytes(path.read_bytes() + bytes(512)),
    "a list": lambda path: path.write_bytes(b"[1, 2]\n" + path.read_bytes()),
    "deep": lambda path: path.write_bytes(b"[" * 100_000 + b"\n" + path.read_bytes()),
    "dangling link": in_its_place,
}


# No two runs have the same timings: of these only the steps can be compared.
LINES = [
    (name, damage)
    for name in ("metrics.jsonl", "timings.jsonl")
    for damage in DAMAGES
    if (name, damage) != ("timings.jsonl", "another value")
]


@pytest.mark.parametrize(("name", "damage"), LINES)
def test_lines_are_restored(name, damage, folder, finished, caplog):
    DAMAGES[damage](folder / name)
    with caplog.at_level(logging.WARNING):
        trainer_world.run(folder.parents[3], **STEPS)
    assert_whole(folder, finished)
    harmless = {"zeros behind", "doubled"} if name == "timings.jsonl" else {"zeros behind"}
    if damage not in harmless:
        assert f"{folder / name} is not what it was: it is restored from" in caplog.text


@pytest.mark.parametrize("damage", ["deleted", "empty", "half a line", "junk", "dangling link"])
def test_episodes_are_restored(damage, folder, finished):
    DAMAGES[damage](folder / "episodes.parquet")
    trainer_world.run(folder.parents[3], **STEPS)
    assert_whole(folder, finished)


@pytest.mark.parametrize("name", ["metrics.jsonl", "timings.jsonl", "episodes.parquet"])
def test_a_finished_run_is_restored_too(name, finished, tmp_path):
    folder = tmp_path / "runs" / "world" / "sdar" / "seed-0"
    shutil.copytree(finished, folder)
    (folder / name).unlink()
    parts = trainer_world.parts()
    trainer_world.run(tmp_path, given=parts, **STEPS)
    assert parts.pool.resets == 0, "nothing was left to play"
    assert_whole(folder, finished)


def test_killed_between_a_checkpoint_and_its_timings(finished, tmp_path):
    folder = tmp_path / "runs" / "world" / "sdar" / "seed-0"
    shutil.copytree(finished, folder)
    lines.truncate(folder / "timings.jsonl", 3)
    trainer_world.run(tmp_path, **STEPS)
    assert_whole(folder, finished)


@pytest.mark.parametrize("name", ["metrics.jsonl", "timings.jsonl", "episodes.parquet"])
def test_a_folder_in_the_place_of_a_record_is_named(name, folder):
    (folder / name).unlink()
    (folder / name / "inside").mkdir(parents=True)
    with pytest.raises(SdarError) as raised:
        trainer_world.run(folder.parents[3], **STEPS)
    assert str(folder / name) in str(raised.value)
    assert "Is a directory" in str(raised.value)


def test_records_deleted_under_a_running_run_are_whole_at_the_end(finished, tmp_path):
    folder = tmp_path / "runs" / "world" / "sdar" / "seed-0"

    class Deleting(trainer_world.MortalPool):
        def step(self, actions):
            if self.calls == 5:
                (folder / "metrics.jsonl").unlink()
                (folder / "timings.jsonl").write_text("junk\n")
            return super().step(actions)

    parts = trainer_world.parts()
    parts.pool = Deleting(None)
    trainer_world.run(tmp_path, given=parts, **STEPS)
    assert_whole(folder, finished)


@pytest.mark.parametrize("damage", ["deleted", "empty", "junk"])
def test_token_records_are_restored(damage, finished, tmp_path):
    folder = tmp_path / "runs" / "world" / "sdar" / "seed-0"
    shutil.copytree(finished, folder)
    tokens = folder / "tokens" / "step-00002.parquet"
    DAMAGES[damage](tokens)
    tokens.with_suffix(".html").unlink()
    parts = trainer_world.parts()
    trainer_world.run(tmp_path, given=parts, **STEPS)
    assert parts.pool.resets == 0, "nothing was left to play"
    assert_whole(folder, finished)
    for path in (tokens, tokens.with_suffix(".html")):
        assert path.read_bytes() == (finished / "tokens" / path.name).read_bytes()


def spoil_everywhere(folder: Path, name: str) -> None:
    """As where a file with several names is changed in its place."""
    for path in folder.rglob(name):
        path.write_bytes(b"PAR1 no more")


def test_lost_token_records_take_an_earlier_checkpoint(finished, tmp_path, caplog):
    """Those of step 3 are newer than the checkpoint at 2: they are made again."""
    folder = tmp_path / "runs" / "world" / "sdar" / "seed-0"
    shutil.copytree(finished, folder)
    tokens = folder / "tokens" / "step-00003.parquet"
    spoil_everywhere(folder, tokens.name)
    parts = trainer_world.parts()
    with caplog.at_level(logging.WARNING):
        trainer_world.run(tmp_path, given=parts, **STEPS)
    assert f"step-00004 is not continued: {tokens}" in caplog.text
    assert parts.pool.resets == 2
    assert_whole(folder, finished)
    assert pl.read_parquet(tokens).equals(pl.read_parquet(finished / "tokens" / tokens.name))


def test_token_records_that_no_checkpoint_is_older_than(finished, folder):
    spoil_everywhere(folder, "step-00000.parquet")
    with pytest.raises(SdarError) as raised:
        trainer_world.run(folder.parents[3], **STEPS)
    said = str(raised.value)
    assert str(folder / "tokens" / "step-00000.parquet") in said
    assert f"remove {folder / 'checkpoints'} to begin anew" in said
    shutil.rmtree(folder / "checkpoints")
    trainer_world.run(folder.parents[3], **STEPS)
    assert_whole(folder, finished)


def test_strange_files_beside_the_records_are_left_alone(folder, finished):
    (folder / "tokens" / "step-best.parquet").write_text("mine")
    (folder / "checkpoints" / "step-best").mkdir()
    (folder / "checkpoints" / "step-00003").write_text("a file")
    trainer_world.run(folder.parents[3], **STEPS)
    assert_whole(folder, finished)


@pytest.mark.parametrize("manifest", ["[]", "{}", "7", "{", '{"state.json": 3}', "\0"])
def test_a_manifest_that_says_nothing(manifest, finished, tmp_path):
    folder = tmp_path / "runs" / "world" / "sdar" / "seed-0"
    shutil.copytree(finished, folder)
    (folder / "checkpoints" / "step-00004" / "manifest.json").write_text(manifest)
    trainer_world.run(tmp_path, **STEPS)
    assert_whole(folder, finished)


def test_what_a_checkpoint_holds_is_small(finished):
    state = json.loads((finished / "checkpoints" / "step-00004" / "state.json").read_text())
    assert list(state["tokens"]) == [
        "step-00000.parquet",
        "step-00002.parquet",
        "step-00003.parquet",
    ]
