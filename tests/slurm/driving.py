"""Running the minute-sized experiment on a fake cluster, and disturbing it on the way.

Nothing here waits for ever: every wait has a deadline, and says what was going on when it passed.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pipeline_runner
import psutil
import yaml
from fake_cluster import FakeCluster

# As the minute-sized one; checkpoints are due after the last step only, so that any other one is
# the doing of a signal.
EXPERIMENT = {
    "experiment": "two-nodes",
    "methods": ["grpo", "sdar"],
    "seeds": [0],
    "environment": {"games": {"train": 8, "valid_seen": 4, "valid_unseen": 4}, "max_turns": 6},
    "policy": {"tiny": {"layers": 1, "hidden": 64, "intermediate": 128}},
    "warm_start": {
        "updates": 60,
        "warmup": 5,
        "demonstrations": {"worlds": 8, "episodes": 60, "openings": 20},
        "dagger": {"rounds": 1, "episodes": 8, "updates": 10},
    },
    "training": {
        "steps": 8,
        "tasks_per_step": 2,
        "group_size": 2,
        "minibatch": 16,
        "micro_batch": 8,
        "checkpoint_every": 100,
        "record_tokens_every": 4,
        "recorded_episodes": 2,
    },
    "evaluation": {"recorded_episodes": 2},
    # The device is what this machine has; the GPU a job asks for is the fake cluster's.
    "execution": {"device": "cpu", "warm_start_threads": 1},
    "cluster": {"train": {"gpus": 1}},
}
POLICY = Path("runs/two-nodes/sdar/seed-0/policy")
RUN = POLICY.parent
SAME = ("metrics.jsonl", "policy/model.safetensors", "policy/config.json")
STEPS = EXPERIMENT["training"]["steps"]

Found = TypeVar("Found")


class Experiment:
    """A folder with the workflow in it, and the Snakemake that runs it on the cluster."""

    def __init__(self, folder: Path, cluster: FakeCluster) -> None:
        self.folder = folder
        self.cluster = cluster
        self.output = ""
        self.states: dict[str, str] = {}
        self._controller: subprocess.Popen[bytes] | None = None

    def configure(
        self,
        nodes: int = 1,
        tracked: bool = False,
        training: Mapping[str, Any] | None = None,
        **cluster: Any,
    ) -> None:
        """Write the experiment's file, with these keys of `training` and `cluster` besides its own.
        `tracked`: with MLflow's process beside each job, which SLURM signals as well."""
        values = EXPERIMENT | {
            "cluster": EXPERIMENT["cluster"] | cluster,
            "execution": EXPERIMENT["execution"] | {"nodes": nodes},
            "tracking": {"enabled": tracked},
            "training": EXPERIMENT["training"] | (training or {}),
        }
        (self.folder / "experiment.yaml").write_text(yaml.safe_dump(values))

    def copy_without_run(self, folder: Path) -> "Experiment":
        # Another test may run Snakemake there right now: its lock is not ours.
        ignored = shutil.ignore_patterns("locks", "log")
        shutil.copytree(self.folder, folder, symlinks=True, ignore=ignored)
        shutil.rmtree(folder / "logs" / "slurm", ignore_errors=True)
        shutil.rmtree(folder / RUN)
        return Experiment(folder, self.cluster)

    def run(self, *targets: str, seconds: float, expected: int = 0, retries: int = 3) -> str:
        """Run Snakemake to its end; what it printed."""
        done = pipeline_runner.run(
            self.folder,
            "python",
            *_options(retries),
            *targets,
            seconds=seconds,
            environment=self.cluster.environment,
        )
        assert done.returncode == expected, done.stdout[-6000:] + self.cluster.told()
        return done.stdout

    def start(self, *targets: str, retries: int = 3) -> None:
        """Start Snakemake and leave it running."""
        here = Path(sys.executable).parent
        environment = self.cluster.environment
        with (self.folder / "snakemake.out").open("wb") as output:
            self._controller = subprocess.Popen(
                [str(here / "python"), *_options(retries), *targets],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**environment, "PATH": f"{here}{os.pathsep}{environment['PATH']}"},
            )

    def end(self, seconds: float) -> int:
        """Wait for the Snakemake that was started; its exit code."""
        assert self._controller is not None
        try:
            return self._controller.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"Snakemake goes on after {seconds} s\n{self.told()}") from None

    def interrupt(self) -> None:
        """Ctrl-C for the Snakemake that was started."""
        assert self._controller is not None
        os.killpg(self._controller.pid, signal.SIGINT)

    def abandon(self) -> None:
        """End what still runs of it, on the cluster too."""
        if self._controller is not None and self._controller.poll() is None:
            os.killpg(self._controller.pid, signal.SIGKILL)
            self._controller.wait()
        running = [number for number, state in self.cluster.states().items() if _is_live(state)]
        if running:
            self.cluster.run("scancel", "--signal=KILL", "--full", *running)
            self.cluster.run("scancel", *running)

    def pause_training(self, steps: int, seconds: float = 300) -> psutil.Process:
        """Stop the clock of SDAR's training when so many steps are recorded; its (first) rank."""

        def there() -> psutil.Process | None:
            return self.rank(0) if self.steps() >= steps else None

        process = self.wait_for(f"step {steps} of the training", there, seconds)
        process.suspend()
        assert self.steps() < STEPS - 1, "paused too late: the run was almost over"
        return process

    def rank(self, place: int) -> psutil.Process | None:
        """The process of a rank of SDAR's training, where it runs; 0 of a single process."""
        for process in self.cluster.processes():
            with contextlib.suppress(psutil.Error):
                if process.cwd() == str(self.folder) and _place(process) == str(place):
                    return process
        return None

    def submitted(self, seconds: float = 240) -> str:
        """The number of the first job that the Snakemake that was started has submitted."""

        def there() -> str | None:
            found = re.search(r"submitted with SLURM jobid (\d+)", self.output_so_far())
            return found.group(1) if found else None

        return self.wait_for("submitted job", there, seconds)

    def job_of(self, process: psutil.Process) -> str:
        """The SLURM job a process belongs to."""
        return process.environ()["SLURM_JOB_ID"]

    def steps(self) -> int:
        """Steps that are recorded."""
        path = self.folder / RUN / "metrics.jsonl"
        return path.read_text().count("\n") if path.exists() else 0

    def newest_checkpoint(self) -> int:
        found = (self.folder / RUN / "checkpoints").glob("step-*")
        return max((int(path.name.removeprefix("step-")) for path in found), default=0)

    def wait_for_state(self, job: str, *states: str, seconds: float) -> str:
        def reached() -> str | None:
            state = self.cluster.states().get(job, "")
            return state if state in states else None

        what = f"state {' or '.join(states)} of job {job}"
        return self.wait_for(what, reached, seconds, pause=0.5)  # squeue costs more than a look

    def wait_for(
        self, what: str, found: Callable[[], Found | None], seconds: float, pause: float = 0.05
    ) -> Found:
        """What `found` returns when it is not None; it is asked every `pause` seconds."""
        deadline = time.monotonic() + seconds
        while (result := found()) is None:
            assert time.monotonic() < deadline, f"no {what} within {seconds} s\n{self.told()}"
            code = None if self._controller is None else self._controller.poll()
            assert code is None, f"Snakemake ended ({code}) before {what}\n{self.told()}"
            time.sleep(pause)
        return result

    def output_so_far(self) -> str:
        """What the Snakemake that was started has printed."""
        path = self.folder / "snakemake.out"
        return path.read_text(errors="replace") if path.exists() else ""

    def told(self) -> str:
        """What Snakemake and the cluster said last."""
        return f"{self.output_so_far()[-6000:]}\n{self.cluster.states()}\n{self.cluster.told()}"

    def assert_same_run(self, other: "Experiment") -> None:
        for name in SAME:
            mine, theirs = self.folder / RUN / name, other.folder / RUN / name
            assert mine.read_bytes() == theirs.read_bytes(), f"{name} differs"


def is_told(process: psutil.Process, number: signal.Signals) -> bool:
    """A signal has reached a paused process: it waits for its end, or has ended it."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return True
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


def _options(retries: int) -> list[str]:
    program = str(Path(__file__).with_name("impatient_snakemake.py"))
    profile = [program, "--profile", "profiles/slurm", "--configfile", "experiment.yaml"]
    # One disk for both nodes: what is not there after ten seconds will not come.
    return [*profile, "--jobs", "4", "--retries", str(retries), "--latency-wait", "10", "--"]


def _place(process: psutil.Process) -> str | None:
    """Which rank of SDAR's training a process is; None if it is none."""
    line = process.cmdline()
    if line[1:2] and line[1].endswith("/sdar") and line[2:5] == ["train", "--method", "sdar"]:
        return process.environ()["SLURM_PROCID"]
    return None


def _is_live(state: str) -> bool:
    return state in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED", "CONFIGURING")
