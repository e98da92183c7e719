"""The adaptive gate's running quantiles are part of the run: a resumed run has the same bytes."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import trainer_world

from sdar.algorithms.context import GapQuantiles
from sdar.files import lines
from sdar.training.learner import Learner

SCRIPT = Path(trainer_world.__file__)
METHOD = "sdar_adaptive"
RUNNING = ("gap/running_q10", "gap/running_median", "gap/running_q90")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return trainer_world.run(tmp_path_factory.mktemp("finished"), METHOD)


def assert_same_run(folder, expected):
    for name in ("metrics.jsonl", "policy/model.safetensors"):
        assert (folder / name).read_bytes() == (expected / name).read_bytes(), name
    tokens = "tokens/step-00004.parquet"
    assert pl.read_parquet(folder / tokens).equals(pl.read_parquet(expected / tokens))


def state(folder, step):
    path = folder / "checkpoints" / f"step-{step:05d}" / "state.json"
    return json.loads(path.read_text())


def test_metrics_show_the_quantiles_and_the_checkpoint_keeps_them(finished):
    metrics = lines.read(finished / "metrics.jsonl")
    for line in metrics:
        low, middle, high = (line[name] for name in RUNNING)
        assert low < middle < high
        assert 0 < line["gate/mean"] < 1
    assert len({line["gap/running_median"] for line in metrics}) == len(metrics)
    for step in (4, 5):
        names = ("q10", "median", "q90")
        shown = {of: metrics[step - 1][name] for of, name in zip(names, RUNNING, strict=True)}
        assert state(finished, step)["running_gap"] == shown


def test_each_step_takes_a_tenth_of_its_own_in(finished, tmp_path):
    """The second step's numbers from those of the first and its own, which a fresh run shows."""
    first, second = lines.read(finished / "metrics.jsonl")[:2]
    own = []
    look = Learner.look_at_step

    def watch(learner, samples, *rest):
        gap = samples.teacher_log_probs - samples.old_log_probs
        own.append(GapQuantiles.of_step(gap, samples.response_mask))
        return look(learner, samples, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "look_at_step", watch)
        trainer_world.run(tmp_path, METHOD, steps=2)
    assert first["gap/running_median"] == own[0].median
    for name, of in zip(RUNNING, ("q10", "median", "q90"), strict=True):
        expected = 0.9 * getattr(own[0], of) + 0.1 * getattr(own[1], of)
        assert second[name] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("call", [8, 11])
def test_killed_and_continued(call, finished, tmp_path):
    command = [sys.executable, str(SCRIPT), str(tmp_path), METHOD, "0"]
    died = subprocess.run([*command, "--kill-at-call", str(call)], capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    subprocess.run(command, check=True, capture_output=True)
    assert_same_run(tmp_path / "runs" / "world" / METHOD / "seed-0", finished)


def test_the_state_matters(finished, tmp_path):
    """Without it the resumed run would be another one: the comparison above can fail."""
    folder = tmp_path / "runs" / "world" / METHOD / "seed-0"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "policy")
    shutil.rmtree(folder / "checkpoints" / "step-00005")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "restore", lambda learner, state: None)
        trainer_world.run(tmp_path, METHOD)
    assert (folder / "metrics.jsonl").read_bytes() != (finished / "metrics.jsonl").read_bytes()


def test_other_methods_keep_none(tmp_path):
    folder = trainer_world.run(tmp_path, "sdar", steps=1)
    assert state(folder, 1)["running_gap"] is None
    assert not set(RUNNING) & set(lines.read(folder / "metrics.jsonl")[0])
