"""What a run trains with, opened: devices, policy, tasks, skills and the environment's workers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from sdar.config import ExperimentConfig, Layout
from sdar.environments.base import EnvironmentPool, Task
from sdar.errors import SdarError
from sdar.files.digest import text_digest
from sdar.methods.declarations import Method, get_method
from sdar.policy.gpu import choose_allocator, chosen_device
from sdar.policy.loading import load_policy
from sdar.policy.reproducible import choose_kernels
from sdar.policy.tokenizer import tokenizer_digest
from sdar.policy.weights import policy_digest
from sdar.ranks.ranks import PATIENCE
from sdar.ranks.rendezvous import fit_local_rank
from sdar.rollout.settings import longest_sequence
from sdar.training.identity import task_inputs


@dataclass
class Parts:
    """What a run trains with. `inputs` names the data by digest, so that a checkpoint made from
    other data is not continued."""

    model: Any
    tokenizer: Any
    pool: EnvironmentPool
    tasks: Sequence[Task]
    skills: Any
    inputs: dict[str, str]


def open_parts(config: ExperimentConfig, layout: Layout, device: torch.device) -> Parts:
    """Load policy, tasks and skills, and start the environment's workers.

    Raises `SdarError` for whatever is missing, before any compute is spent.
    """
    from sdar.environments.packages import environment_package
    from sdar.environments.tasks import read_knowledge, read_tasks
    from sdar.skills import open_skills

    package = environment_package(config.environment.name)
    tasks = read_tasks(layout, "train")
    if not tasks:
        raise SdarError(
            f"{layout.tasks}: no training tasks; run `sdar tasks` with this configuration"
        )
    skills = open_skills(config, read_knowledge(config.environment, layout))
    digests = skills.digests(tasks)
    start = layout.warm_start / "policy" if config.warm_start.enabled else config.policy.model
    model, tokenizer = load_policy(
        start,
        device,
        torch.float32,
        trust_remote_code=config.policy.trust_remote_code,
        longest=longest_sequence(config),
        fp32_head=config.policy.fp32_head,
        share_prefixes=config.policy.share_prefixes,
    )
    inputs = {
        "policy": policy_digest(model),
        "tokenizer": tokenizer_digest(tokenizer),
        **task_inputs(config, tasks),
        "skills": text_digest(json.dumps(digests))[:16],
    }
    pool = package.open_pool(config.environment, layout.tasks)
    return Parts(model, tokenizer, pool, tasks, skills, inputs)


def make_accelerator(config: ExperimentConfig) -> Accelerator:
    """Device and precision as configured: weights in float32, computing in `policy.dtype`."""
    device = chosen_device(config.execution.device)
    choose_allocator(device, config.rollout.vllm_in_process)
    on_cpu = device.type == "cpu"
    mixed = "bf16" if config.policy.dtype == "bfloat16" else "no"
    if not on_cpu:
        fit_local_rank(torch.cuda.device_count())
    patience = InitProcessGroupKwargs(timeout=PATIENCE)
    # accelerate keeps the precision of a process's first run, and refuses a second run another one.
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=on_cpu, mixed_precision=mixed, kwargs_handlers=[patience])
    # accelerate takes all cores for its ranks where OMP_NUM_THREADS is not set.
    torch.set_num_threads(config.execution.threads)
    choose_kernels(accelerator.device)
    return accelerator


def trained_method(name: str) -> Method:
    """The declaration of a method that trains; `SdarError` for any other."""
    method = get_method(name)
    if not method.trained:
        raise SdarError(
            f"--method {name}: nothing to train; evaluate it with `sdar evaluate --method {name}`"
        )
    return method
