"""A run that is killed and started again is the run that was not, byte for byte."""

import json
import logging
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import trainer_world

from sdar.errors import SdarError

SCRIPT = Path(trainer_world.__file__)
CONTINUOUS = {"rollout": {"schedule": "continuous"}}
COMPARED = ("metrics.jsonl", "policy/model.safetensors", "policy/tokenizer.json")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return trainer_world.run(tmp_path_factory.mktemp("finished"))


def assert_same_run(folder, expected):
    for name in COMPARED:
        assert (folder / name).read_bytes() == (expected / name).read_bytes(), name
    for name in ("episodes.parquet", "tokens/step-00004.parquet"):
        assert pl.read_parquet(folder / name).equals(pl.read_parquet(expected / name)), name


# A step has at most three calls of the world: call 2 dies in the first step, before there is any
# checkpoint; call 8 in the third or fourth, behind the checkpoint at 2.
@pytest.mark.parametrize("call", [2, 8])
def test_killed_in_mid_step_and_continued(call, finished, tmp_path):
    folder = killed_and_continued(tmp_path, {}, call, steps=2 if call > 3 else 0)
    assert_same_run(folder, finished)


def test_killed_between_the_turns_of_continuous_episodes_and_continued(finished, tmp_path):
    parts = trainer_world.parts()
    whole = trainer_world.run(tmp_path / "whole", given=parts, values=CONTINUOUS)
    assert_same_course(whole, finished)
    call = parts.pool.calls * 7 // 10  # behind the checkpoint at 2
    folder = killed_and_continued(tmp_path / "killed", CONTINUOUS, call, steps=2)
    assert_same_run(folder, whole)


def killed_and_continued(root, values, call, steps):
    """The folder of a run that was killed in a call of the world, after so many whole steps."""
    command = [sys.executable, str(SCRIPT), str(root), "sdar", "0", "--values", json.dumps(values)]
    died = subprocess.run([*command, "--kill-at-call", str(call)], capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    folder = root / "runs" / "world" / "sdar" / "seed-0"
    assert not (folder / "policy").exists()
    if steps:
        assert (folder / "metrics.jsonl").read_text().count("\n") >= steps
    subprocess.run(command, check=True, capture_output=True)
    return folder


def assert_same_course(folder, expected):
    """The first step's episodes, which no update has touched yet, are the same."""
    columns = ["step", "task_id", "success", "turns"]
    first = pl.col("step") == 0
    written, wanted = (pl.read_parquet(f / "episodes.parquet") for f in (folder, expected))
    assert written.filter(first).select(columns).equals(wanted.filter(first).select(columns))


def test_finished_run_is_exported_again_without_training(finished, tmp_path):
    folder = tmp_path / "runs" / "world" / "sdar" / "seed-0"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "policy")
    parts = trainer_world.parts()
    trainer_world.run(tmp_path, given=parts)
    assert_same_run(folder, finished)
    assert parts.pool.resets == 0, "nothing was left to play"


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "no manifest"])
def test_damaged_checkpoint_falls_back_to_the_previous_and_says_so(
    damage, finished, tmp_path, caplog
):
    folder = tmp_path / "runs" / "world" / "sdar" / "seed-0"
    shutil.copytree(finished, folder)
    newest = folder / "checkpoints" / "step-00005"
    victim = newest / "model.safetensors"
    data = victim.read_bytes()
    if damage == "cut":
        victim.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        victim.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "missing":
        (newest / "optimizer.pt").unlink()
    else:
        (newest / "manifest.json").unlink()
    parts = trainer_world.parts()
    with caplog.at_level(logging.WARNING, logger="sdar.training"):
        trainer_world.run(tmp_path, given=parts)
    assert "step-00005 is not usable" in caplog.text
    assert parts.pool.resets == 1, "one step was left to run"
    assert_same_run(folder, finished)


def test_checkpoints_of_other_settings_are_not_continued(finished, tmp_path, caplog):
    folder = tmp_path / "runs" / "world" / "sdar" / "seed-0"
    shutil.copytree(finished, folder)
    with caplog.at_level(logging.WARNING, logger="sdar.training"):
        trainer_world.run(tmp_path, learning_rate=2e-3)
    assert "other settings or data" in caplog.text
    fresh = trainer_world.run(tmp_path / "fresh", learning_rate=2e-3)
    assert_same_run(folder, fresh)


def test_more_steps_continue_a_finished_run(finished, tmp_path):
    folder = tmp_path / "runs" / "world" / "sdar" / "seed-0"
    shutil.copytree(finished, folder)
    parts = trainer_world.parts()
    trainer_world.run(tmp_path, given=parts, steps=6)
    assert parts.pool.resets == 1
    before = (finished / "metrics.jsonl").read_bytes()
    assert (folder / "metrics.jsonl").read_bytes().startswith(before)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt)])
def test_interrupt_leaves_a_run_that_continues(number, raised, finished, tmp_path):
    class Interrupted(trainer_world.MortalPool):
        def step(self, actions):
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(number)
            return super(trainer_world.MortalPool, self).step(actions)

    parts = trainer_world.parts()
    parts.pool = Interrupted(8)
    with pytest.raises(raised):
        trainer_world.run(tmp_path, given=parts)
    assert_same_run(trainer_world.run(tmp_path), finished)


def test_no_space_while_saving_harms_nothing_older(finished, tmp_path, file_size_limit):
    folder = tmp_path / "runs" / "world" / "sdar" / "seed-0"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "checkpoints" / "step-00005")
    with (
        file_size_limit(60_000),
        pytest.raises(SdarError, match="earlier checkpoints are unharmed"),
    ):
        trainer_world.run(tmp_path)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00004"]
    assert_same_run(trainer_world.run(tmp_path), finished)
