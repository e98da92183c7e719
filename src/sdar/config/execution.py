"""Configuration of how a job computes: device, ranks, and what saves memory."""

from typing import Annotated, Literal

from pydantic import PositiveFloat, PositiveInt, model_validator

from sdar.files.paths import GivenPath
from sdar.section import NOTHING, ROUNDING, Section


class LoraConfig(Section):
    """Low-rank adapters (peft) instead of all weights; the exported policy has them merged."""

    rank: PositiveInt = 32
    alpha: PositiveInt = 64
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of the linear layers that get adapters; all-linear: all but the head."""

    @model_validator(mode="after")
    def _possible(self) -> "LoraConfig":
        if "lm_head" in self.targets or "embed_tokens" in self.targets:
            raise ValueError(
                "targets: embedding and head get no adapters (they may be one "
                "weight): remove embed_tokens and lm_head"
            )
        return self


class ExecutionConfig(Section):
    """What one job may use."""

    threads: Annotated[PositiveInt, ROUNDING] = 1
    """CPU threads of a training or evaluation job."""
    warm_start_threads: Annotated[PositiveInt, ROUNDING] = 2
    """CPU threads of the tiny policy's warm start, which is one process on a CPU. A pretrained
    model's is computed as its training is."""
    device: Annotated[Literal["auto", "cpu", "cuda"], ROUNDING] = "auto"
    deterministic: Annotated[bool, ROUNDING] = True
    """On a GPU, score and update with kernels that give the same bits each time. Set it to false
    for a model with an operation that has no such kernel, or to see what they cost."""
    gpu_memory_gib: Annotated[PositiveFloat | None, NOTHING] = None
    """Memory of the GPUs that training jobs get, for `sdar doctor` where there is no GPU to ask
    (on a login node): 79 for an 80 GB card."""
    nodes: Annotated[PositiveInt, ROUNDING] = 1
    """Machines of one training job; more than one needs SLURM."""
    processes: Annotated[PositiveInt, ROUNDING] = 1
    """Ranks of one training job on each machine: on GPUs, one per GPU. Each plays its share of the
    episodes and computes its share of every pass; the update is that of one process."""
    accelerate: Annotated[GivenPath | None, ROUNDING] = None
    """Launch configuration of accelerate (config/accelerate/*.yaml). Null: config/accelerate's
    FSDP2 where ranks have GPUs, plain data parallelism on CPUs."""

    @property
    def ranks(self) -> int:
        """Processes of one training job, all machines together."""
        return self.nodes * self.processes

    @model_validator(mode="after")
    def _possible(self) -> "ExecutionConfig":
        if self.accelerate is not None and self.ranks == 1:
            raise ValueError(
                "execution.accelerate is set for a single process: raise execution.processes or "
                "execution.nodes, or set it to null"
            )
        return self
