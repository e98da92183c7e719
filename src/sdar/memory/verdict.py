"""Whether a training job fits: what `sdar doctor` shows and `sdar train` asks before it loads."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from sdar.config import ExperimentConfig
from sdar.errors import SdarError
from sdar.memory.advice import KeyChange, key_changes
from sdar.memory.estimate import GIB, MemoryEstimate, worst_case
from sdar.methods.declarations import Method, get_method
from sdar.methods.roles import trained_among
from sdar.policy.shape import ModelShape, shape_of_policy

log = logging.getLogger("sdar.memory")

MIB = 2**20
COMFORT = 0.92
"""Share of a GPU above which fragmentation may end a job that fits by the sum of its tensors."""


@dataclass(frozen=True)
class Verdict:
    """An estimate beside what there is. `capacity` in bytes, None where it is not known."""

    estimate: MemoryEstimate
    capacity: int | None
    changes: Sequence[KeyChange] = ()
    """Keys to change so that it fits; empty where it does, or nothing helps."""

    @property
    def level(self) -> Literal["fits", "tight", "too large", "unknown"]:
        if self.capacity is None:
            return "unknown"
        if self.estimate.peak > self.capacity:
            return "too large"
        return "tight" if self.estimate.peak > COMFORT * self.capacity else "fits"

    def need(self) -> str:
        """What is needed, and what there is."""
        job, where = self.estimate, "GPU" if self.estimate.on_gpu else "process"
        need = (
            f"{job.method} with {_count(job.shape.parameters)} parameters needs up to "
            f"{_size(job.peak)} of each {where}'s memory ({job.worst.name})"
        )
        return need if self.capacity is None else f"{need}, which has {_size(self.capacity)}"

    def remedy(self) -> str:
        """The key to change first, and those after it; empty where nothing is to be done."""
        if self.level == "unknown":
            return "set execution.gpu_memory_gib to compare it with what the cluster's GPUs have"
        if self.level == "fits" or not self.estimate.on_gpu:
            return ""
        if not self.changes:
            return "no key here makes it fit; take a smaller model, or larger GPUs"
        first, *rest = [f"{change} ({_size(change.peak)})" for change in self.changes]
        return f"set {first}" + "".join(f", then {change}" for change in rest)

    def sentence(self) -> str:
        return ": ".join(filter(None, (self.need(), self.remedy())))

    def table(self) -> str:
        """GiB or MiB by part and phase, as aligned text."""
        phases = self.estimate.phases
        unit, name_of_unit = (GIB, "GiB") if self.estimate.peak > GIB else (MIB, "MiB")
        names = list(dict.fromkeys(part for phase in phases for part in phase.parts))
        rows = [[name_of_unit, *(phase.name for phase in phases)]]
        for name in names:
            cells = [phase.parts.get(name, 0) for phase in phases]
            if any(cells):
                rows.append([name, *(f"{cell / unit:.1f}" if cell else "" for cell in cells)])
        rows.append(["together", *(f"{phase.total / unit:.1f}" for phase in phases)])
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )


def judge(
    shape: ModelShape,
    config: ExperimentConfig,
    methods: Sequence[Method],
    *,
    on_gpu: bool,
    capacity: int | None,
) -> Verdict:
    """The estimate of the worst of `methods` beside `capacity` bytes, and what would help."""
    measure = partial(worst_case, shape, on_gpu=on_gpu, gpu_bytes=capacity if on_gpu else None)
    worst = measure(config, methods)
    if capacity is None or not on_gpu or worst.peak <= COMFORT * capacity:
        return Verdict(worst, capacity)

    def peak(changed: ExperimentConfig) -> int:
        return measure(changed, methods).peak

    return Verdict(worst, capacity, key_changes(config, peak, int(COMFORT * capacity)))


def judge_experiment(config: ExperimentConfig) -> Verdict | None:
    """For all methods an experiment trains; None where the model's shape is not known."""
    shape = shape_of_policy(config)
    methods = [get_method(name) for name in trained_among(config.methods)]
    if shape is None or not methods:
        return None
    on_gpu, capacity = machine(config)
    return judge(shape, config, methods, on_gpu=on_gpu, capacity=capacity)


def slow_precision(config: ExperimentConfig) -> str | None:
    """What float32 costs a pretrained model on a GPU, in a sentence; None where it is not so."""
    on_gpu, _ = machine(config)
    if not on_gpu or config.policy.dtype != "float32" or config.policy.model == "tiny":
        return None
    shape, costs = shape_of_policy(config), "products take several times as long as in bfloat16"
    if shape is not None and shape.kv_heads < shape.heads:
        policy = config.policy
        width = policy.max_prompt_tokens + policy.max_response_tokens
        scores = 4 * shape.heads * config.training.micro_batch * width**2
        costs = (
            "no fused attention takes float32 with grouped queries, so that each layer keeps up "
            f"to {_size(scores)} of scores in the update; and {costs}"
        )
    return f"policy.dtype is float32 on a GPU: {costs}: set policy.dtype to bfloat16"


def require_memory(config: ExperimentConfig, method: Method) -> None:
    """Raise `SdarError` before anything is loaded when a GPU cannot hold what `method` needs; warn
    when it hardly can, and of float32. Does nothing on a CPU, or for a model whose shape is not
    known."""
    slow = slow_precision(config)
    if slow is not None:
        log.warning("%s", slow)
    shape = shape_of_policy(config)
    on_gpu, capacity = machine(config)
    if shape is None or not on_gpu:
        return
    verdict = judge(shape, config, [method], on_gpu=True, capacity=capacity)
    if verdict.level == "too large":
        raise SdarError(f"{verdict.sentence()} (the table: sdar doctor)")
    if verdict.level == "tight":
        log.warning("%s", verdict.sentence())


def machine(config: ExperimentConfig) -> tuple[bool, int | None]:
    """Whether training is on GPUs, and the memory in bytes of one, or what is free on the host."""
    import torch

    device, gib = config.execution.device, config.execution.gpu_memory_gib
    if device != "cpu" and torch.cuda.is_available():
        return True, torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    if device == "cuda":
        return True, None if gib is None else int(gib * GIB)
    import psutil

    return False, psutil.virtual_memory().available // config.execution.processes


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count > GIB else f"{count / MIB:.0f} MiB"


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} B" if parameters >= 5e8 else f"{parameters / 1e6:.1f} M"
