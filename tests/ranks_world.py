"""Training runs of the scripted world on the ranks that torchrun or accelerate starts. A script:

torchrun --nproc-per-node 2 ranks_world.py ROOT JOBS

JOBS is a JSON file: a list of objects with `name` (the run's folder under ROOT) and, where they
differ from nothing: `method`, `sharded`, `training` (keys of that section), `rollout`, `tied`,
`kill` ([rank, call of the world's `step` at which it kills itself]), `fail` (as `kill`, but raises
SdarError), `stop` (as `kill`, but as if a scheduler had told that rank to stop).

In double precision, so that only what is really different differs by more than 1e-10.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import scripted
import torch
import trainer_world
from double_precision import in_double, precision

from sdar.config import ExperimentConfig, Layout
from sdar.errors import SdarError
from sdar.interruption import Stopped, take
from sdar.training.run import Parts, make_accelerator, make_reproducible, policy_digest
from sdar.training.trainer import train_with

RANK = int(os.environ.get("RANK", "0"))


class World(scripted.ScriptedPool):
    """Something happens to one rank in the middle of a step."""

    def __init__(self, job: dict[str, Any]) -> None:
        super().__init__(modulus=3)
        self.calls = 0
        self.job = job

    def step(self, actions: dict[int, str]) -> dict[int, Any]:
        self.calls += 1
        for what in ("kill", "fail", "stop"):
            if self.job.get(what) == [RANK, self.calls]:
                getattr(self, what)()
        return super().step(actions)

    def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def fail(self) -> None:
        raise SdarError("the world has come to an end: make another")

    def stop(self) -> None:
        assert take(signal.SIGUSR1)


def configuration(job: dict[str, Any]) -> ExperimentConfig:
    config = trainer_world.configuration(**{"steps": 3, **job.get("training", {})})
    values = config.model_dump(mode="json")
    values["rollout"] |= job.get("rollout", {})
    return ExperimentConfig.model_validate(values)


def policy(tied: bool) -> Any:
    model = scripted.policy(seed=0, spread=1.5)
    # Tokens enough that end a response for lengths to differ.
    model.generation_config.eos_token_id = list(range(2, 40))
    if not tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(0.5 * model.lm_head.weight.detach())
    return in_double(model)


def run(root: Path, job: dict[str, Any]) -> Path:
    """The run's folder; what is left when it ends is its policy, metrics and checkpoints."""
    os.environ["ACCELERATE_USE_FSDP"] = str(job.get("sharded", False)).lower()
    config = configuration(job)
    make_reproducible(config.execution.threads)
    layout, method = Layout(root / job["name"], config.experiment), job.get("method", "sdar")
    model = policy(job.get("tied", True))
    parts = Parts(
        model=model,
        tokenizer=scripted.tokenizer(),
        pool=World(job),
        tasks=scripted.tasks(5),
        skills=trainer_world.Skills(),
        inputs={"policy": policy_digest(model)},
    )
    try:
        train_with(parts, config, layout, method, 0, make_accelerator(config))
    except Stopped:
        print(f"rank {RANK} stopped", flush=True)
    return layout.run(method, 0)


def main() -> None:
    root, jobs = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    with precision(torch.float64, torch.Tensor.double):
        for job in jobs:
            run(root, job)


if __name__ == "__main__":
    main()
