"""Whether the warm start of a pretrained model fits: a training job's update, without the rest."""

from collections.abc import Iterator
from dataclasses import replace

from sdar.config import ExperimentConfig
from sdar.config.rollout import RolloutConfig
from sdar.errors import SdarError
from sdar.memory.estimate import MemoryEstimate, estimate
from sdar.memory.verdict import Verdict, log, machine, slow_precision
from sdar.methods.declarations import Method
from sdar.policy.shape import ModelShape, shape_of_policy

_TUNING = Method("the warm start", label="", colour="", summary="")
_PHASES = {"update", "optimizer step"}


def estimate_warm_start(
    shape: ModelShape,
    config: ExperimentConfig,
    *,
    on_gpu: bool = True,
    gpu_bytes: int | None = None,
) -> MemoryEstimate:
    """As `estimate`. With rounds of relabelling, the policy plays as well."""
    found = estimate(shape, _as_training(config), _TUNING, on_gpu=on_gpu, gpu_bytes=gpu_bytes)
    counted = _PHASES | ({"rollout"} if config.chosen_warm_start.dagger_rounds else set())
    return replace(found, phases=tuple(p for p in found.phases if p.name in counted))


def judge_warm_start(config: ExperimentConfig) -> Verdict | None:
    """The estimate beside what this machine has; None for the tiny policy, where there is no warm
    start, and where the model's shape is not known."""
    if config.policy.model == "tiny" or not config.warm_start.enabled:
        return None
    shape = shape_of_policy(config)
    if shape is None:
        return None
    on_gpu, capacity = machine(config)
    gpu_bytes = capacity if on_gpu else None
    return Verdict(estimate_warm_start(shape, config, on_gpu=on_gpu, gpu_bytes=gpu_bytes), capacity)


def warm_start_remedies(config: ExperimentConfig, verdict: Verdict) -> str:
    """The keys that lower what its largest phase needs, cheapest first."""
    return ", or ".join(_remedies(config, verdict.estimate.worst.name))


def require_memory_of_warm_start(config: ExperimentConfig) -> None:
    """Raise `SdarError` before anything is loaded when a GPU cannot hold the warm start; warn when
    it hardly can, and of float32. Does nothing on a CPU."""
    verdict = judge_warm_start(config) if machine(config)[0] else None
    slow = slow_precision(_as_training(config))
    if slow is not None and config.warm_start.enabled:
        log.warning("%s", slow)
    if verdict is None:
        return
    if verdict.level == "too large":
        remedies = warm_start_remedies(config, verdict)
        raise SdarError(f"{verdict.need()}: {remedies} (the table: sdar doctor)")
    if verdict.level == "tight":
        log.warning("%s: %s", verdict.need(), warm_start_remedies(config, verdict))


def _as_training(config: ExperimentConfig) -> ExperimentConfig:
    """The warm start as a training run: its keys in the places of training's."""
    settings, chosen, policy = config.warm_start, config.chosen_warm_start, config.policy
    training = config.training.model_copy(
        update={
            "lora": settings.lora,
            "micro_batch": min(chosen.micro_batch or settings.batch, settings.batch),
            "kl_coefficient": 0.0,
            "tasks_per_step": settings.dagger.episodes,
            "group_size": 1,
        }
    )
    # Hinted demonstrations are as long as the teacher's prompts.
    longest = max(policy.max_prompt_tokens, policy.max_teacher_prompt_tokens)
    return config.model_copy(
        update={
            "training": training,
            "policy": policy.model_copy(update={"max_prompt_tokens": longest}),
            # Without rounds no engine is opened.
            "rollout": config.rollout if chosen.dagger_rounds else RolloutConfig(),
        }
    )


def _remedies(config: ExperimentConfig, phase: str) -> Iterator[str]:
    rollout = config.rollout
    samples = min(config.chosen_warm_start.micro_batch or 1, config.warm_start.batch)
    if phase == "rollout" and rollout.vllm_in_process:
        yield f"lower rollout.vllm.gpu_memory_share (now {rollout.vllm.gpu_memory_share:g})"
    elif phase == "rollout":
        yield f"lower rollout.batch (now {rollout.batch})"
    if phase == "update" and samples > 1:
        yield f"lower warm_start.micro_batch (now {samples})"
    if phase == "update" and not config.training.activation_checkpointing:
        yield "set training.activation_checkpointing to true"
    if config.warm_start.lora is None:
        yield "set warm_start.lora to {}"
    yield "raise execution.processes"
