"""Carries out a method's declaration on a whole step: its advantages, and the loss's constants.

Legend: S samples, T tokens. The loss of each micro-batch is in `loss`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sdar.algorithms.advantages import (
    agent_opsd_advantages,
    discounted_step_returns,
    gigpo_advantages,
    grpo_advantages,
    rlsd_token_advantages,
)
from sdar.algorithms.aggregation import clean, response_tokens
from sdar.algorithms.context import (
    NEUTRAL,
    GapQuantiles,
    StepContext,
    mean_over_step,
    unopposed_tokens,
)
from sdar.algorithms.gates import compute_gate, teacher_gap
from sdar.algorithms.inputs import StepSamples, required, required_tensor
from sdar.algorithms.loss import LossSettings
from sdar.algorithms.policy_loss import per_token
from sdar.methods.declarations import AdvantageName, Method, TokenCredit
from sdar.methods.gates import GATES


@dataclass(frozen=True)
class AdvantageSettings:
    """The run's part of the advantage (configuration: `training`)."""

    statistics_over: str
    normalize_by_std: bool
    discount: float
    """Of GiGPO's turn returns."""
    teacher_share: float = 1.0
    """Of the turns that could be taught, those that are: what the teacher changes of an advantage
    counts 1 / share times there, and so on average as if all were."""


def _grpo(_method: Method, samples: StepSamples, settings: AdvantageSettings) -> Tensor:
    return grpo_advantages(
        samples.step_return,
        samples.group,
        samples.episode,
        statistics_over=settings.statistics_over,
        normalize_by_std=settings.normalize_by_std,
    )


def _gigpo(method: Method, samples: StepSamples, settings: AdvantageSettings) -> Tensor:
    reward = required_tensor(samples.step_reward, "step_reward", method)
    return gigpo_advantages(
        samples.step_return,
        discounted_step_returns(reward, samples.episode, samples.turn, discount=settings.discount),
        samples.group,
        samples.episode,
        required(samples.anchor_observation, "anchor_observation", method),
        mode="mean_std_norm" if settings.normalize_by_std else "mean_norm",
    )


def _uniform(_method: Method, samples: StepSamples, advantages_S: Tensor, _mix: float) -> Tensor:
    mask_ST = response_tokens(samples.response_mask)
    return clean(per_token(advantages_S, mask_ST), mask_ST)


def _rlsd(method: Method, samples: StepSamples, advantages_S: Tensor, mix: float) -> Tensor:
    moved_ST = rlsd_token_advantages(
        advantages_S,
        required_tensor(samples.old_log_probs, "old_log_probs", method),
        required_tensor(samples.teacher_log_probs, "teacher_log_probs", method),
        response_tokens(samples.response_mask),
        mix=mix,
    )
    if samples.taught is None:
        return moved_ST
    return moved_ST.where(samples.taught[:, None], _uniform(method, samples, advantages_S, mix))


def _agent_opsd(method: Method, samples: StepSamples, advantages_S: Tensor, mix: float) -> Tensor:
    moved_S = agent_opsd_advantages(
        advantages_S,
        required_tensor(samples.old_log_probs, "old_log_probs", method),
        required_tensor(samples.teacher_log_probs, "teacher_log_probs", method),
        response_tokens(samples.response_mask),
        samples.group,
        samples.episode,
        samples.turn,
        required_tensor(samples.success, "success", method),
        mix=mix,
    )
    if samples.taught is not None:
        moved_S = moved_S.where(samples.taught, advantages_S)
    return _uniform(method, samples, moved_S, mix)


ADVANTAGES: dict[AdvantageName, Callable[[Method, StepSamples, AdvantageSettings], Tensor]] = {
    "grpo": _grpo,
    "gigpo": _gigpo,
}
"""By `Method.advantage`: [S]."""
TOKEN_CREDITS: dict[TokenCredit, Callable[[Method, StepSamples, Tensor, float], Tensor]] = {
    "uniform": _uniform,
    "rlsd": _rlsd,
    "agent_opsd": _agent_opsd,
}
"""By `Method.token_credit`, from advantages [S] and the share that is redistributed: [S, T]. A
sample that the teacher did not score keeps its advantage."""


def step_advantages(
    method: Method,
    samples: StepSamples,
    settings: AdvantageSettings,
    *,
    step: int,
) -> Tensor:
    """[S, T] advantages of a whole step, zero off the response.

    Args:
        step: training step from 0; only the mix of `token_credit` depends on it.

    Raises:
        SdarError: the method needs something `samples` does not hold.
    """
    advantages_S = ADVANTAGES[method.advantage](method, samples, settings)
    redistribute = TOKEN_CREDITS[method.token_credit]
    mix = method.token_mix(step) / settings.teacher_share
    return redistribute(method, samples, advantages_S, mix)


def step_context(
    method: Method,
    settings: LossSettings,
    samples: StepSamples,
    advantages: Tensor,
    running: GapQuantiles | None = None,
    coefficient_left: float = 1.0,
) -> StepContext:
    """What the loss of every micro-batch needs of the whole step.

    Args:
        samples: the whole step, with log-probs of both sides under the weights at its start.
        advantages: [S, T] as `step_advantages` gives them.
        running: the quantiles a run has kept, `StepContext.running` of the step before; None at a
            run's first step.
        coefficient_left: what the run's schedule leaves of the distillation coefficient; 0: the
            teacher was not asked.

    Raises:
        SdarError: the method needs something `samples` does not hold.
    """
    mask_ST = response_tokens(samples.response_mask)
    context: dict[str, Any] = {"coefficient_left": coefficient_left}
    taught_ST = mask_ST
    if samples.taught is not None:
        context["taught"] = taught_ST = mask_ST & samples.taught[:, None]
    if not method.needs_step_context:
        return replace(NEUTRAL, **context)
    if coefficient_left == 0:
        return StepContext(running=running, **context)
    kind = method.gate_kind(settings.gate)
    reads_step = kind is not None and GATES[kind].uses_step
    if reads_step or method.gate_baseline == "step_mean":
        old_ST = required_tensor(samples.old_log_probs, "old_log_probs", method)
        teacher_ST = required_tensor(samples.teacher_log_probs, "teacher_log_probs", method)
        gap_ST = teacher_gap(clean(old_ST, taught_ST), clean(teacher_ST, taught_ST)).double()
        if reads_step:
            # Where no turn was drawn there are no gaps, and nothing is weighed by the gate.
            if samples.taught is None or taught_ST.any():
                own = GapQuantiles.of_step(gap_ST, taught_ST)
                running = own if running is None else running.followed_by(own)
            context["running"] = running
            if running is not None:
                context |= {"centre": running.median, "scale": running.scale(settings.beta)}
        if method.gate_baseline == "step_mean":
            entropy_ST = None
            if method.needs_old_entropy(settings.gate):
                entropy_ST = required_tensor(samples.old_entropy, "old_entropy", method).double()
            gate_ST = compute_gate(
                str(kind),
                gap_ST,
                beta=settings.beta,
                entropy=entropy_ST,
                centre=context.get("centre", 0.0),
                scale=context.get("scale", torch.inf),
            )
            context["baseline"] = mean_over_step(gate_ST, taught_ST)
    if method.kept_tokens == "unopposed":
        valid_S = required_tensor(samples.valid, "valid", method)
        context["keep"] = unopposed_tokens(advantages, valid_S)
    return StepContext(**context)
