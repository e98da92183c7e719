"""Scripts that run a list of jobs on every rank, one after the other: their start and their end.

python -m torch.distributed.run --nproc-per-node 2 SCRIPT ROOT JOBS

JOBS is a JSON file: a list of objects with `name` (the folder under ROOT of what the job leaves)
and what else the script reads. In double precision, so that only what is really different differs
by more than 1e-10.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from double_precision import double_precision
from safetensors.torch import load_file

Job = dict[str, Any]


def run_jobs(run: Callable[[Path, Job], Any]) -> None:
    """The script: `run` each of the jobs it was given."""
    root, jobs = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    with double_precision():
        for job in jobs:
            run(root, job)


def command(script: Path, root: Path, jobs: Sequence[Job]) -> list[str]:
    """The script with its arguments."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "jobs.json"
    path.write_text(json.dumps(jobs))
    return [str(script), str(root), str(path)]


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **more}


def start(
    script: Path, root: Path, jobs: Sequence[Job], ranks: int = 2
) -> subprocess.CompletedProcess[str]:
    """The finished start of so many ranks."""
    launch = [sys.executable]
    if ranks > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
        launch += [f"--nproc-per-node={ranks}"]
    return subprocess.run(
        [*launch, *command(script, root, jobs)],
        capture_output=True,
        text=True,
        check=False,
        timeout=550,
        env=environment(),
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the policy that a run has written."""
    return load_file(folder / "policy" / "model.safetensors")


def distance(one: Path, other: Path) -> float:
    """Largest difference of a weight of two runs; both name the same weights."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)
