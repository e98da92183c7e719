"""Training runs of the scripted world on the ranks that torchrun or accelerate starts.

A script of `jobs_of_ranks`. A job may have, where it differs from the default: `method`, `sharded`
(null: as the launcher says), `training` (keys of that section), `rollout`, `tied`, `kill` ([rank,
call of the world's `step` at which it kills itself]), `fail` (likewise, but raises SdarError),
`sleep`, `stop` (as if a scheduler had told that rank to stop), `mistake` (one made on purpose).
"""

import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scripted
import torch
import trainer_world
from double_precision import in_double
from jobs_of_ranks import run_jobs

from sdar.config import ExperimentConfig, Layout
from sdar.errors import SdarError
from sdar.interruption import Stopped, take
from sdar.policy.reproducible import make_reproducible
from sdar.policy.sharding import wants_sharding
from sdar.policy.weights import policy_digest
from sdar.ranks.ranks import Ranks
from sdar.training import updating
from sdar.training.parts import Parts, make_accelerator
from sdar.training.shares import StepShares
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
        for what in ("kill", "fail", "sleep", "stop"):
            if self.job.get(what) == [RANK, self.calls]:
                getattr(self, what)()
        return super().step(actions)

    def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def fail(self) -> None:
        raise SdarError("the world has come to an end: make another")

    def sleep(self) -> None:
        time.sleep(300)

    def stop(self) -> None:
        assert take(signal.SIGUSR1)


def configuration(job: dict[str, Any]) -> ExperimentConfig:
    training = {"steps": 3, **job.get("training", {})}
    return trainer_world.configuration({"rollout": job.get("rollout", {})}, **training)


def policy(tied: bool) -> Any:
    model = scripted.policy(seed=0, spread=1.5)
    # Tokens enough that end a response for lengths to differ.
    model.generation_config.eos_token_id = list(range(2, 40))
    if not tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(0.5 * model.lm_head.weight.detach())
    return in_double(model)


@contextmanager
def mistaken(mistake: str | None) -> Iterator[None]:
    """Ranks that forget each other's gradients, lose a little of one rank's, or divide by their own
    tokens."""

    def own_share(step: Any, *given: Any, **named: Any) -> Any:
        shares = of_step(step, *given, **named)
        for minibatch in shares.minibatches:
            rows = [row for part in minibatch.plans[RANK] for row in part]
            own = range(minibatch.samples.start, minibatch.samples.start + len(rows))
            object.__setattr__(minibatch, "samples", own)
        return shares

    def short_share(ranks: Ranks, parameters: Any) -> None:
        parameters = list(parameters)
        for parameter in parameters:
            if RANK == 1 and parameter.grad is not None:
                parameter.grad *= 1 - 1e-4
        sum_gradients(ranks, parameters)

    def no_number(*given: Any) -> Any:
        """Of its second step, one rank's losses are NaN, while all gradients are finite."""
        loss = training_loss(*given)
        if RANK == 1 and now == 1:
            return replace(loss, loss=loss.loss + math.nan)
        return loss

    def noted(self: Any, step: int, *given: Any) -> Any:
        nonlocal now
        now = step
        return update(self, step, *given)

    now, training_loss, update = 0, updating.training_loss, updating.Updating.update
    of_step, sum_gradients = StepShares.of_step.__func__, Ranks.sum_gradients
    with pytest.MonkeyPatch.context() as patch:
        if mistake == "no sum":
            patch.setattr(Ranks, "sum_gradients", lambda ranks, parameters: None)
        if mistake == "short share":
            patch.setattr(Ranks, "sum_gradients", short_share)
        if mistake == "own denominator":
            patch.setattr(StepShares, "of_step", classmethod(own_share))
        if mistake == "no number":
            patch.setattr(updating, "training_loss", no_number)
            patch.setattr(updating.Updating, "update", noted)
        yield


def run(root: Path, job: dict[str, Any]) -> Path:
    """The run's folder; what is left when it ends is its policy, metrics and checkpoints."""
    if job.get("sharded", False) is not None:
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
    accelerator = make_accelerator(config)
    print(f"sharded: {wants_sharding(config, accelerator)}", flush=True)
    try:
        with mistaken(job.get("mistake")):
            train_with(parts, config, layout, method, 0, accelerator)
    except Stopped:
        print(f"rank {RANK} stopped", flush=True)
    return layout.run(method, 0)


if __name__ == "__main__":
    run_jobs(run)
