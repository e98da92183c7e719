"""A stage that a scheduler stops has saved its last step, and goes on as if never stopped."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import trainer_world
from scripted import tasks

from sdar.evaluation.evaluate import Played, play_all
from sdar.evaluation.panels import plan_chunks
from sdar.evaluation.partial import Partial
from sdar.interruption import STOPPED_CODE, Stopped, between_steps, stop_requested, take

COMPARED = ("metrics.jsonl", "policy/model.safetensors", "policy/tokenizer.json")

# The scripted run as a command, which sends itself signals as a step begins.
SCRIPT = """
import os, sys
from pathlib import Path
import trainer_world, typer
from sdar.cli.options import friendly

root, step, *numbers = sys.argv[1:]
sys.argv = ["sdar"]

class Signalled(trainer_world.MortalPool):
    def reset(self, tasks):
        if self.resets == int(step):
            for number in numbers:
                os.kill(os.getpid(), int(number))
        return super().reset(tasks)

@friendly
def train():
    parts = trainer_world.parts()
    parts.pool = Signalled(None)
    trainer_world.run(Path(root), given=parts)

typer.run(train)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return trainer_world.run(tmp_path_factory.mktemp("finished"))


def stop_in_step(root, step, *numbers, **environment):
    paths = [str(Path(trainer_world.__file__).parent), os.environ.get("PYTHONPATH", "")]
    here = os.pathsep.join(filter(None, paths))
    inherited = {key: value for key, value in os.environ.items() if key != "SLURM_JOB_ID"}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, str(root), str(step), *(str(int(n)) for n in numbers)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=inherited | {"PYTHONPATH": here} | environment,
    )


def newest(folder):
    return max(int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").iterdir())


# Checkpoints are due after steps 2 and 4 of 5: one after the third step is the signal's doing.
@pytest.mark.parametrize(
    ("numbers", "environment"),
    [
        ((signal.SIGUSR1,), {}),
        ((signal.SIGTERM,), {"SLURM_JOB_ID": "7"}),
        # Near the limit, then at it, by two ways.
        ((signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM), {"SLURM_JOB_ID": "7"}),
    ],
)
def test_the_step_is_finished_and_saved_and_the_run_is_the_same(
    numbers, environment, finished, tmp_path
):
    done = stop_in_step(tmp_path, 2, *numbers, **environment)
    assert done.returncode == STOPPED_CODE, done.stderr
    assert "this step is finished and saved first" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("sdar: told to stop; what is complete is kept.")
    assert "Traceback" not in done.stderr
    folder = tmp_path / "runs" / "world" / "sdar" / "seed-0"
    assert newest(folder) == 3
    assert (folder / "metrics.jsonl").read_text().count("\n") == 3
    assert not (folder / "policy").exists()

    parts = trainer_world.parts()
    trainer_world.run(tmp_path, given=parts)
    assert parts.pool.resets == 2, "the finished steps were played again"
    for name in COMPARED:
        assert (folder / name).read_bytes() == (finished / name).read_bytes(), name
    for name in ("episodes.parquet", "tokens/step-00004.parquet"):
        assert pl.read_parquet(folder / name).equals(pl.read_parquet(finished / name)), name


def test_in_the_last_step_the_run_is_simply_finished(finished, tmp_path):
    done = stop_in_step(tmp_path, 4, signal.SIGUSR1)
    assert done.returncode == 0, done.stderr
    policy = tmp_path / "runs" / "world" / "sdar" / "seed-0" / "policy" / "model.safetensors"
    assert policy.read_bytes() == (finished / "policy" / "model.safetensors").read_bytes()


def test_without_a_scheduler_sigterm_ends_at_once(tmp_path):
    """A person who kills a run does not wait for a step."""
    done = stop_in_step(tmp_path, 3, signal.SIGTERM)
    assert done.returncode == 143, done.stderr
    assert newest(tmp_path / "runs" / "world" / "sdar" / "seed-0") == 2


def test_a_request_is_forgotten_with_its_loop():
    assert not take(signal.SIGUSR1), "outside a loop nothing would look at it"
    with between_steps():
        assert not stop_requested()
        assert not take(signal.SIGINT), "Ctrl-C never waits"
        assert take(signal.SIGUSR1)
        assert stop_requested()
    assert not stop_requested()


def test_an_evaluation_keeps_the_chunk_it_was_stopped_in(tmp_path):
    chunks = plan_chunks({"valid": tasks(6)}, (0,), 2)
    partial = Partial(tmp_path / "partial", {"policy": "p"})
    played = []

    def play(chunk, _following, _report):
        played.append(chunk.index)
        if len(played) == 2:
            take(signal.SIGUSR1)
        told = {"method": "m", "seed": 0, "with_skill": False, "panel": chunk.panel}
        told |= {"evaluation_seed": 0, "success": True}
        episodes = pl.DataFrame([told | {"task_id": task.id} for task in chunk.tasks])
        tokens = episodes.with_columns(episode=pl.lit("e"), turn=0, position=0)
        return Played(episodes.to_arrow(), tokens.to_arrow())

    with pytest.raises(Stopped):
        play_all(chunks, play, partial, "evaluation", 1)
    assert played == [0, 1]
    episodes, _ = play_all(chunks, play, partial, "evaluation", 1)
    assert played == [0, 1, 2]
    assert episodes["task_id"].to_pylist() == [task.id for task in tasks(6)]
