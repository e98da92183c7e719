"""Carries out any method's declaration: advantages once a step, the loss once a micro-batch.

Legend: S samples, T tokens. A trainer calls `step_advantages` and `step_context` on the whole step,
then `training_loss` on each micro-batch with the global denominator, and needs no branch on the
method. The dispatch on a declaration's fields lives here alone.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sdar.algorithms.advantages import (
    Keys,
    agent_opsd_advantages,
    discounted_step_returns,
    gigpo_advantages,
    grpo_advantages,
    rlsd_token_advantages,
)
from sdar.algorithms.aggregation import aggregate, clean, masked_mean, response_tokens
from sdar.algorithms.context import (
    GapQuantiles,
    StepContext,
    mean_over_step,
    unopposed_tokens,
)
from sdar.algorithms.distillation import (
    distillation_weight,
    full_reverse_kl_loss,
    gated_distillation_loss,
    reverse_kl_loss,
    skill_sd_loss,
)
from sdar.algorithms.gates import compute_gate, teacher_gap
from sdar.algorithms.policy_loss import clipped_policy_loss, per_token, reference_kl
from sdar.errors import SdarError
from sdar.methods.declarations import Method


@dataclass(frozen=True)
class AdvantageSettings:
    """The run's part of the advantage (configuration: `training`)."""

    statistics_over: str = "steps"
    normalize_by_std: bool = True
    epsilon: float = 1e-6
    discount: float = 0.95
    """Of GiGPO's turn returns."""
    step_advantage_weight: float = 1.0
    """Of GiGPO's turn term."""
    token_clip: float = 0.2
    """Most that RLSD or AgentOPSD move a weight from 1."""
    evidence_discount: float = 0.95
    """Of AgentOPSD's evidence."""


@dataclass(frozen=True)
class StepSamples:
    """All samples of a training step, one row a turn, in any order.

    `step_return` is the episode's return less the turn's penalty; `step_reward` what the turn
    itself earned (the return, on the last turn), less its penalty. Keys must tell episodes of
    different groups apart. `valid` [S]: non-zero where the turn's action could be parsed. Log-probs
    and entropy are [S, T] under the policy at the start of the step.
    """

    step_return: Tensor
    group: Keys
    episode: Keys
    turn: Keys
    response_mask: Tensor
    success: Tensor | None = None
    step_reward: Tensor | None = None
    anchor_observation: Keys | None = None
    valid: Tensor | None = None
    old_log_probs: Tensor | None = None
    old_entropy: Tensor | None = None
    teacher_log_probs: Tensor | None = None


def _required(value: Any, name: str, method: Method) -> Any:
    if value is None:
        raise SdarError(f"method {method.name!r} needs {name} and got none: pass `{name}`")
    return value


def _tensor(value: Tensor | Keys | None, name: str, method: Method) -> Tensor:
    value = _required(value, name, method)
    return value if isinstance(value, Tensor) else torch.as_tensor(value)


def step_advantages(
    method: Method,
    samples: StepSamples,
    settings: AdvantageSettings | None = None,
    *,
    step: int = 0,
) -> Tensor:
    """[S, T] advantages of a whole step, zero off the response.

    Args:
        step: training step from 0; only the mix of `token_credit` depends on it.

    Raises:
        SdarError: the method needs something `samples` does not hold.
    """
    settings = settings or AdvantageSettings()
    if method.advantage == "gigpo":
        reward = _tensor(samples.step_reward, "step_reward", method)
        advantages_S = gigpo_advantages(
            samples.step_return,
            discounted_step_returns(
                reward, samples.episode, samples.turn, discount=settings.discount
            ),
            samples.group,
            samples.episode,
            _required(samples.anchor_observation, "anchor_observation", method),
            mode="mean_std_norm" if settings.normalize_by_std else "mean_norm",
            step_advantage_weight=settings.step_advantage_weight,
            epsilon=settings.epsilon,
        )
    else:
        advantages_S = grpo_advantages(
            samples.step_return,
            samples.group,
            samples.episode,
            statistics_over=settings.statistics_over,
            normalize_by_std=settings.normalize_by_std,
            epsilon=settings.epsilon,
        )
    mask_ST = response_tokens(samples.response_mask)
    if method.token_credit == "uniform":
        return clean(per_token(advantages_S, mask_ST), mask_ST)
    old_ST = _tensor(samples.old_log_probs, "old_log_probs", method)
    teacher_ST = _tensor(samples.teacher_log_probs, "teacher_log_probs", method)
    mix = method.token_mix(step)
    if method.token_credit == "rlsd":
        return rlsd_token_advantages(
            advantages_S, old_ST, teacher_ST, mask_ST, mix=mix, clip=settings.token_clip
        )
    advantages_S = agent_opsd_advantages(
        advantages_S,
        old_ST,
        teacher_ST,
        mask_ST,
        samples.group,
        samples.episode,
        samples.turn,
        _tensor(samples.success, "success", method),
        discount=settings.evidence_discount,
        clip=settings.token_clip,
        mix=mix,
        epsilon=settings.epsilon,
    )
    return clean(per_token(advantages_S, mask_ST), mask_ST)


@dataclass(frozen=True)
class LossSettings:
    """The run's part of the loss (configuration: `training`), the paper's values."""

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = 3.0
    loss_agg: str = "token-mean"
    kl_coefficient: float = 0.01
    kl_estimator: str = "k3"
    entropy_coefficient: float = 0.001
    distillation_coefficient: float = 0.01
    beta: float = 5.0
    gate: str = "gap"


def step_context(
    method: Method,
    settings: LossSettings,
    samples: StepSamples,
    advantages: Tensor,
    running: GapQuantiles | None = None,
) -> StepContext:
    """What the loss of every micro-batch needs to know of the whole step.

    Args:
        samples: the whole step, with log-probs of both sides under the weights at its start.
        advantages: [S, T] as `step_advantages` gives them.
        running: the quantiles a run has kept, `StepContext.running` of the step before; None at a
            run's first step.

    Raises:
        SdarError: the method needs something `samples` does not hold.
    """
    if not method.needs_step_context:
        return StepContext()
    mask_ST = response_tokens(samples.response_mask)
    context: dict[str, Any] = {}
    kind = method.gate_kind(settings.gate)
    if kind == "adaptive" or method.gate_baseline == "step_mean":
        old_ST = _tensor(samples.old_log_probs, "old_log_probs", method)
        teacher_ST = _tensor(samples.teacher_log_probs, "teacher_log_probs", method)
        gap_ST = teacher_gap(clean(old_ST, mask_ST), clean(teacher_ST, mask_ST)).double()
        if kind == "adaptive":
            own = GapQuantiles.of_step(gap_ST, mask_ST)
            running = own if running is None else running.followed_by(own)
            context |= {"running": running, "centre": running.median}
            context["scale"] = running.scale(settings.beta)
        if method.gate_baseline == "step_mean":
            entropy_ST = None
            if method.needs_old_entropy(settings.gate):
                entropy_ST = _tensor(samples.old_entropy, "old_entropy", method).double()
            gate_ST = compute_gate(
                str(kind),
                gap_ST,
                beta=settings.beta,
                entropy=entropy_ST,
                centre=context.get("centre", 0.0),
                scale=context.get("scale", torch.inf),
            )
            context["baseline"] = mean_over_step(gate_ST, mask_ST)
    if method.kept_tokens == "unopposed":
        valid_S = _tensor(samples.valid, "valid", method)
        context["keep"] = unopposed_tokens(advantages, valid_S)
    return StepContext(**context)


@dataclass(frozen=True)
class TrainingLoss:
    """The loss to differentiate, its parts, and the gap and gate of each token for the records.

    `statistics` are means over the response tokens given; `gap` and `gate` are None where the
    method has none. `gate` is the weight the distillation term really had at the token. For the
    figures of a step, concatenate them over its micro-batches and call `gates.gate_statistics`
    once.
    """

    loss: Tensor
    statistics: dict[str, Tensor] = field(default_factory=dict)
    gap: Tensor | None = None
    gate: Tensor | None = None


def training_loss(
    method: Method,
    settings: LossSettings,
    *,
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    teacher_log_probs: Tensor | None = None,
    reference_log_probs: Tensor | None = None,
    entropy: Tensor | None = None,
    teacher_divergence: Tensor | None = None,
    context: StepContext | None = None,
    denominator: float | Tensor | None = None,
    sequence: Tensor | None = None,
) -> TrainingLoss:
    """policy_coefficient * policy - c_H * entropy + c_KL * KL + lambda * distillation.

    Args:
        log_probs, old_log_probs, advantages, response_mask, teacher_log_probs,
            reference_log_probs, entropy: [S, T], padded or packed; see the terms' functions.
        teacher_divergence: [S, T] KL(student || teacher) over the vocabulary, differentiable.
        context: of the step (`step_context`), its per-token part cut to these tokens.
        denominator: of the global batch, so that micro-batch losses add up to it.
        sequence: [S, T] sample number of each token in packed rows, for the `seq-*` aggregations.

    A term whose coefficient is 0 is measured where its inputs are given, and never added, so its
    run is bit for bit that of the method without it.

    Raises:
        SdarError: a term with a non-zero coefficient lacks its input.
    """
    mask_ST = response_tokens(response_mask)
    policy, statistics = clipped_policy_loss(
        old_log_probs,
        log_probs,
        advantages,
        response_mask,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high if method.clip_high is None else method.clip_high,
        dual_clip=settings.dual_clip,
        loss_agg=settings.loss_agg,
        denominator=denominator,
        sequence=sequence,
    )
    statistics["policy_loss"] = policy.detach()
    # Starting from a zero that hangs on the log-probs keeps backward() legal for every method.
    total = clean(log_probs, mask_ST).sum() * 0.0
    if method.policy_coefficient != 0:
        total = method.policy_coefficient * policy

    def mean_over_batch(values_ST: Tensor) -> Tensor:
        return aggregate(
            values_ST, mask_ST, settings.loss_agg, denominator=denominator, sequence=sequence
        )

    if settings.entropy_coefficient != 0 or entropy is not None:
        entropy_ST = clean(_tensor(entropy, "entropy", method), mask_ST)
        statistics["entropy"] = masked_mean(entropy_ST, mask_ST)
        if settings.entropy_coefficient != 0:
            total = total - settings.entropy_coefficient * mean_over_batch(entropy_ST)
    if settings.kl_coefficient != 0 or reference_log_probs is not None:
        reference_ST = clean(_tensor(reference_log_probs, "reference_log_probs", method), mask_ST)
        kl_ST = reference_kl(
            clean(log_probs, mask_ST), reference_ST, estimator=settings.kl_estimator
        )
        statistics["reference_kl"] = masked_mean(kl_ST, mask_ST)
        if settings.kl_coefficient != 0:
            total = total + settings.kl_coefficient * mean_over_batch(kl_ST)

    gap_ST = gate_ST = None
    if method.distillation != "none":
        teacher_ST = _tensor(teacher_log_probs, "teacher_log_probs", method)
        gap_ST = clean(teacher_gap(log_probs, teacher_ST), mask_ST)
        how: dict[str, Any] = {
            "loss_agg": settings.loss_agg,
            "denominator": denominator,
            "sequence": sequence,
        }
        kind = method.gate_kind(settings.gate)
        if kind is not None:
            weighted = _weighting(method, settings, kind, context, entropy)
            gate_ST = clean(distillation_weight(gap_ST, **weighted), mask_ST)
            distillation, measured = gated_distillation_loss(
                log_probs, teacher_ST, response_mask, **weighted, **how
            )
        elif method.distillation == "skill_sd":
            distillation, measured = skill_sd_loss(
                log_probs, teacher_ST, old_log_probs, response_mask, **how
            )
        elif method.distillation == "reverse_kl":
            distillation, measured = reverse_kl_loss(log_probs, teacher_ST, response_mask, **how)
        else:
            divergence_ST = _tensor(teacher_divergence, "teacher_divergence", method)
            distillation, measured = full_reverse_kl_loss(divergence_ST, response_mask, **how)
        statistics |= measured
        statistics["distillation_loss"] = distillation.detach()
        coefficient = method.coefficient(settings.distillation_coefficient)
        if coefficient != 0:
            total = total + coefficient * distillation
    statistics["loss"] = total.detach()
    return TrainingLoss(total, statistics, gap_ST, gate_ST)


def _weighting(
    method: Method,
    settings: LossSettings,
    kind: str,
    context: StepContext | None,
    entropy: Tensor | None,
) -> dict[str, Any]:
    """The arguments of `distillation.distillation_weight`."""
    if method.needs_step_context:
        context = _required(context, "context", method)
    context = context or StepContext()
    return {
        "gate": kind,
        "beta": settings.beta,
        "entropy": entropy,
        "centre": context.centre,
        "scale": context.scale,
        "baseline": context.baseline,
        "keep": context.keep,
    }
