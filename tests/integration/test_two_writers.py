"""Every stage refuses a folder that another living process writes, before it does anything."""

import os
import subprocess
import sys

import pytest
import trainer_world

from sdar.config import Layout
from sdar.errors import SdarError
from sdar.files.lock import only_writer
from sdar.training import trainer

FOLDERS = {
    ("tasks",): "tasks",
    ("demonstrations",): "demonstrations",
    ("warm-start",): "warm_start",
    ("train", "--method", "sdar"): "sdar/seed-0",
    ("evaluate", "--method", "sdar"): "sdar/seed-0/evaluation",
    ("evaluate", "--method", "warm_start"): "warm_start/seed-0/evaluation",
    ("compare",): "compare",
    ("report",): "report",
}


@pytest.mark.parametrize("stage", FOLDERS, ids="-".join)
def test_the_second_start_of_a_stage_is_refused(stage, repository, tmp_path):
    config = repository / "config" / "config.yaml"
    folder = Layout(tmp_path, "alfworld-tiny").runs / FOLDERS[stage]
    with only_writer(folder):
        before = sorted(tmp_path.rglob("*"))
        done = subprocess.run(
            [sys.executable, "-m", "sdar.cli", *stage, "--config", config, "--root", tmp_path],
            capture_output=True,
            text=True,
        )
        assert sorted(tmp_path.rglob("*")) == before, "nothing is written"
    assert done.returncode == 2, done.stderr
    assert f"{folder} is being written by process {os.getpid()} on" in done.stderr
    assert "Traceback" not in done.stderr


def test_training_asks_before_it_loads_anything(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "open_parts", None)
    config = trainer_world.configuration()
    layout = Layout(tmp_path, config.experiment)
    with (
        only_writer(layout.run("sdar", 0)),
        pytest.raises(SdarError, match=f"process {os.getpid()}"),
    ):
        trainer.train(config, layout, "sdar", 0)
