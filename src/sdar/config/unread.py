"""Keys that were given and that nothing reads beside the others: each is said.

A file holds the defaults as well, so a key counts as given where its value is none of them.
"""

from collections.abc import Iterator

from sdar.config.models import ExperimentConfig
from sdar.methods.declarations import get_method
from sdar.methods.gates import GATES


def unread_keys(config: ExperimentConfig) -> list[str]:
    """One sentence for each reason, with the keys it concerns."""
    usual = config.environment.__class__.model_validate({"name": config.environment.name})
    defaults = {key: value for key, value, _ in ExperimentConfig().leaves()}
    defaults |= {key: value for key, value, _ in usual.leaves("environment.")}
    given = [key for key, value, _ in config.leaves() if defaults.get(key) != value]
    said = []
    for because, roots in _reasons(config):
        keys = [key for key in given if any(key == r or key.startswith(f"{r}.") for r in roots)]
        if keys:
            said.append(f"nothing reads {', '.join(keys)}, because {because}")
    return said


def _reasons(config: ExperimentConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Why keys are not read, and those keys or their sections."""
    if config.policy.model != "tiny":
        yield "policy.model is not tiny", ("policy.tiny", "execution.warm_start_threads")
    if not config.warm_start.enabled:
        own = tuple(
            f"warm_start.{k}" for k in type(config.warm_start).model_fields if k != "enabled"
        )
        yield "warm_start.enabled is false", own
    else:
        yield from _unread_by_warm_start(config)
    if config.policy.dtype == "float32":
        yield "policy.dtype is float32, and so is the head", ("policy.fp32_head",)
    if config.rollout.engine == "vllm":
        yield "rollout.engine is vllm", ("rollout.static_decode",)
    else:
        yield f"rollout.engine is {config.rollout.engine}", ("rollout.vllm",)
    if config.rollout.chosen_schedule != "continuous":
        yield "the schedule is turns", ("rollout.answer_after",)
    if config.skills.retrieval != "random" and "random" not in config.sweep.retrievals:
        yield f"skills.retrieval is {config.skills.retrieval}", ("skills.seed",)
    if not config.tracking.enabled:
        yield "tracking.enabled is false", ("tracking.uri", "tracking.experiment")
    if not config.sweep.is_set:
        yield "sweep lists nothing to vary", ("sweep",)
    swept = config.sweep.gates or config.sweep.betas
    if not (GATES[config.training.distillation.gate].uses_beta or swept):
        yield "the gate uses no beta", ("training.distillation.beta",)
    distillation = "training.distillation"
    if not (config.sweep.is_set or any(get_method(name).needs_teacher for name in config.methods)):
        keys = ("coefficient", "scored_by", "share", "schedule")
        yield "no method has a teacher", tuple(f"{distillation}.{key}" for key in keys)
    elif not config.sweep.is_set and all(_has_no_term(name) for name in config.methods):
        yield "no method has a distillation term", (f"{distillation}.schedule",)
    schedule = config.training.distillation.schedule
    if schedule != "linear":
        yield f"{distillation}.schedule is {schedule}", (f"{distillation}.steps",)
    if schedule != "retire":
        unread = (f"{distillation}.retire_below", f"{distillation}.retire_over")
        yield f"{distillation}.schedule is {schedule}", unread
    for because, roots in config.environment.unread():
        yield because, tuple(f"environment.{key}" for key in roots)


def _has_no_term(method: str) -> bool:
    return get_method(method).distillation == "none"


def _unread_by_warm_start(config: ExperimentConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    chosen, dagger = config.chosen_warm_start, config.warm_start.dagger
    if config.environment.plays_data:
        yield "environment.data is given", ("warm_start.demonstrations.worlds",)
    if chosen.optimizer != "muon":
        yield "the warm start's optimizer is adamw", ("warm_start.matrix_learning_rate",)
    if not chosen.dagger_rounds:
        own = [key for key in type(dagger).model_fields if key != "rounds"]
        yield "warm_start.dagger.rounds is 0", tuple(f"warm_start.dagger.{key}" for key in own)
