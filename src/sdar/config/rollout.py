"""Configuration of the rollout: who samples the responses, and in which order."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from sdar.section import NOTHING, ROUNDING, NonNegative, Section, Url


class VllmConfig(Section):
    """What `rollout.engine: vllm` needs to know. It lives in an environment of its own
    (docs/vllm.md): vLLM pins its own torch and transformers."""

    servers: Annotated[tuple[Url, ...], NOTHING] = ()
    """URLs of vLLM servers on other GPUs, which see the root's file system; rank r asks server r
    modulo their number. Empty: an engine in each rank's own process."""
    gpu_memory_share: Annotated[float, Field(gt=0.0, le=1.0), NOTHING] = 0.4
    """Share of a GPU's memory that an engine in process may take for weights and cache."""
    eager: Annotated[bool, ROUNDING] = False
    """No CUDA graphs: starts faster, generates slower."""
    sleep: Annotated[bool, NOTHING] = True
    """An engine in process gives its GPU memory back while the trainer computes."""
    timeout: Annotated[PositiveFloat, NOTHING] = 600.0
    """Seconds that a call of an engine (weights, generation) may take before the run ends with an
    error that names the rank."""
    tolerance: Annotated[NonNegative | None, NOTHING] = None
    """After each transfer of weights: mean difference of log-probs (nats per token) on the probe
    batch beyond which they count as wrong, and the run ends. Null: .05 where policy.dtype is
    float32, .15 where it is bfloat16."""


class RolloutConfig(Section):
    """How responses are sampled in training."""

    engine: Literal["transformers", "vllm"] = "transformers"
    """Evaluation uses it too."""
    schedule: Literal["turns", "continuous"] | None = None
    """`turns`: all live episodes take their turn together. `continuous`: each takes its next turn
    as soon as its environment has answered. Null: `continuous` with vllm, else `turns`."""
    answer_after: PositiveInt = 1
    """`continuous`: steps of the engine (one token of every live response) after which an
    environment's answer is taken up. The engine waits for a later one and takes none earlier, so
    that a rollout does not depend on the machine's speed. For a slow environment: about the time of
    its answer divided by that of a step."""
    temperature: PositiveFloat = 1.0
    batch: Annotated[PositiveInt, ROUNDING] = 64
    """Most responses that the engine generates at once."""
    static_decode: Annotated[bool | None, ROUNDING] = None
    """`engine: transformers` decodes in fixed shapes, on CUDA as graphs: a token's work is launched
    as one, and the host looks every 8 tokens. False: in shapes that follow the responses, in less
    memory. Null: on CUDA. A model whose log-probs would differ is not decoded so."""
    importance_cap: PositiveFloat | None = None
    """Truncated importance sampling, for an engine whose log-probs differ from the trainer's: each
    token's advantage is multiplied by min(trainer's / engine's probability, cap). Null: off; 2 is
    usual."""
    vllm: VllmConfig = VllmConfig()

    @property
    def vllm_in_process(self) -> bool:
        """Whether vLLM shares a process, and its GPU, with the trainer."""
        return self.engine == "vllm" and not self.vllm.servers

    @property
    def chosen_schedule(self) -> Literal["turns", "continuous"]:
        """`schedule`, or what suits the engine."""
        return self.schedule or ("continuous" if self.engine == "vllm" else "turns")

    @model_validator(mode="after")
    def _possible(self) -> "RolloutConfig":
        if self.vllm.servers and self.engine != "vllm":
            raise ValueError(
                "rollout.vllm.servers are given, but rollout.engine is transformers: set "
                "rollout.engine to vllm, or remove the servers"
            )
        if self.importance_cap is not None and self.temperature != 1.0:
            raise ValueError(
                f"rollout.importance_cap compares with log-probs of the engine, which are at "
                f"temperature 1, and rollout.temperature is {self.temperature:g}: set that to 1, "
                "or rollout.importance_cap to null"
            )
        return self
