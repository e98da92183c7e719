"""Configuration of how a job computes: device, ranks, and what saves memory."""

from pathlib import Path
from typing import Literal

from pydantic import PositiveFloat, PositiveInt, model_validator

from sdar.section import Section


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
                "training.lora.targets: embedding and head get no adapters (they may be one "
                "weight): remove embed_tokens and lm_head"
            )
        return self


class ExecutionConfig(Section):
    """What one job may use."""

    threads: PositiveInt = 1
    """CPU threads of a training or evaluation job; another count rounds otherwise."""
    warm_start_threads: PositiveInt = 2
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gpu_memory_gib: PositiveFloat | None = None
    """Memory of the GPUs that training jobs get, for the estimate of what they need where there is
    no GPU to ask (`sdar doctor` on a login node): 79 for an 80 GB card."""
    nodes: PositiveInt = 1
    """Machines of one training job; more than one needs SLURM."""
    processes: PositiveInt = 1
    """Ranks of one training job on each machine: on GPUs, one a GPU. Each plays its share of the
    episodes and computes its share of every pass; the update is that of one process."""
    accelerate: Path | None = None
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
