"""Warm starts of a small pretrained model on the ranks that torchrun starts.

A script of `jobs_of_ranks`, whose ROOT holds `model` and the demonstrations. A job may have, where
it differs from the default: `sharded`, `warm_start` (keys of that section), `values` (sections),
`stop` ([rank, update] at which that rank is told to stop).
"""

import os
import shutil
from pathlib import Path
from typing import Any

import pretrained_world
import pytest
import torch
from accelerate import Accelerator
from double_precision import in_double
from jobs_of_ranks import run_jobs

from sdar.config import Layout
from sdar.interruption import Stopped, take
from sdar.policy.loading import load_policy
from sdar.training import sft, warm_policy
from sdar.training import warm_start as stage

RANK = int(os.environ.get("RANK", "0"))
RANKS = int(os.environ.get("WORLD_SIZE", "1"))


def run(root: Path, job: dict[str, Any]) -> None:
    os.environ["ACCELERATE_USE_FSDP"] = str(job.get("sharded", False)).lower()
    values = {"execution": {"device": "cpu", "processes": RANKS}, **job.get("values", {})}
    config = pretrained_world.configuration(root / "model", values, **job.get("warm_start", {}))
    layout = Layout(root / job["name"], config.experiment)
    if RANK == 0 and not layout.demonstrations.exists():
        shutil.copytree(root / "data", root / job["name"] / "data")
    if RANKS > 1 and torch.distributed.is_initialized():
        torch.distributed.barrier()

    plain, left = sft.add_gradients, (job.get("stop") or [-1, 0])

    def told(*given: Any) -> float:
        left[1] -= 1
        if left[0] == RANK and left[1] == 0:
            assert take(10)
        return plain(*given)

    def load_in_double(name: Any, device: Any, dtype: torch.dtype, **more: Any) -> Any:
        model, tokenizer = load_policy(name, device, torch.float64, **more)
        return in_double(model), tokenizer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sft, "add_gradients", told)
        patch.setattr(warm_policy, "load_policy", load_in_double)
        # It would end the ranks' groups, and there are more jobs.
        patch.setattr(Accelerator, "end_training", lambda self: None)
        patch.setattr(stage, "RECORD_EVERY", 1)
        try:
            stage.warm_start(config, layout)
        except Stopped:
            print(f"rank {RANK} stopped", flush=True)


if __name__ == "__main__":
    run_jobs(run)
