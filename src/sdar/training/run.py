"""One training run around its loop: what it needs, where it continues, what it leaves behind."""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from transformers.utils.logging import disable_progress_bar, enable_progress_bar

from sdar.config import ExperimentConfig, Layout
from sdar.environments.base import EnvironmentPool, Task
from sdar.errors import SdarError
from sdar.files.digest import json_digest, text_digest
from sdar.methods.declarations import Method, get_method
from sdar.policy.loading import load_policy
from sdar.policy.lora import has_adapters
from sdar.policy.weights import further_names, is_sharded, named_full_weights, policy_digest, whole
from sdar.ranks.ranks import PATIENCE
from sdar.training.checkpoint import write_checkpoint

log = logging.getLogger("sdar.training")


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
    from sdar.environments.tasks import read_tasks
    from sdar.skills import open_skills

    package = environment_package(config.environment.name)
    tasks = read_tasks(layout, "train")
    if not tasks:
        raise SdarError(
            f"{layout.tasks}: no training tasks; run `sdar tasks` with this configuration"
        )
    skills = open_skills(config, package.knowledge(layout.tasks))
    digests = skills.digests(tasks)
    start = layout.warm_start / "policy" if config.warm_start.enabled else config.policy.model
    model, tokenizer = load_policy(start, device, torch.float32)
    inputs = {
        "policy": policy_digest(model),
        "tasks": json_digest([task.id for task in tasks])[:16],
        "skills": text_digest(json.dumps(digests))[:16],
    }
    pool = package.open_pool(config.environment, layout.tasks)
    return Parts(model, tokenizer, pool, tasks, skills, inputs)


def make_accelerator(config: ExperimentConfig) -> Accelerator:
    """Device and precision as configured: weights in float32, computing in `policy.dtype`."""
    device = config.execution.device
    if device == "cuda" and not torch.cuda.is_available():
        raise SdarError(
            "execution.device is cuda, but PyTorch finds no CUDA device; set it to auto or cpu, or "
            "mend the driver (see `sdar doctor`)"
        )
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    mixed = "bf16" if config.policy.dtype == "bfloat16" else "no"
    patience = InitProcessGroupKwargs(timeout=PATIENCE)
    accelerator = Accelerator(cpu=on_cpu, mixed_precision=mixed, kwargs_handlers=[patience])
    # accelerate takes all cores for its ranks where OMP_NUM_THREADS is not set.
    torch.set_num_threads(config.execution.threads)
    return accelerator


def make_optimizer(model: Any, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices alone."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=learning_rate,
    )


def clip_gradients(parameters: Iterable[torch.Tensor], most: float) -> float:
    """Scale gradients down to norm `most`; the norm they had. Where they are sharded, the norm is
    over all ranks and all call together."""
    clipped = [parameter for parameter in parameters if parameter.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm([p.grad for p in clipped if p.grad is not None]))
    torch.nn.utils.clip_grads_with_norm_(clipped, most, norm)
    return float(norm)


def learning_rate_at(step: int, config: ExperimentConfig) -> float:
    """Constant after a linear warm-up over the first `warmup_ratio` of the steps."""
    training = config.training
    warmup = round(training.warmup_ratio * training.steps)
    return training.learning_rate * min(1.0, (step + 1) / warmup if warmup else 1.0)


def export_policy(folder: Path, model: Any, tokenizer: Any, writes: bool = True) -> None:
    """Write the finished policy in Hugging Face format, whole and without adapters, in one step.

    On many ranks all call it, and the one that `writes` does.
    """
    options: dict[str, Any] = {}
    if is_sharded(model) or has_adapters(model):
        tied = further_names(model)
        options["state_dict"] = {
            name: value.cpu()
            for name, value in named_full_weights(model)
            if writes and name not in tied
        }
    if not writes:
        return

    def fill(path: Path) -> None:
        model.save_pretrained(path, **options)
        tokenizer.save_pretrained(path)

    disable_progress_bar()  # transformers' own, for one small file
    try:
        write_checkpoint(folder, fill)
    finally:
        enable_progress_bar()


def trained_method(name: str) -> Method:
    """The declaration of a method that trains; `SdarError` for any other."""
    method = get_method(name)
    if not method.trained:
        raise SdarError(
            f"--method {name}: nothing to train; evaluate it with `sdar evaluate --method {name}`"
        )
    return method
