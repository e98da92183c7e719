"""Carries out a method's declaration on a micro-batch: the terms of its loss, added up.

Legend: S samples, T tokens. Terms are per token and know nothing of each other; here alone they
become one number. What is done once per step is in `step`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from sdar.algorithms.aggregation import Aggregation, PerToken, aggregate, clean, response_tokens
from sdar.algorithms.context import NEUTRAL, StepContext
from sdar.algorithms.distillation import DISTILLATION_TERMS, distillation_weight
from sdar.algorithms.gates import teacher_gap
from sdar.algorithms.inputs import MicroBatch, required
from sdar.algorithms.policy_loss import clipped_policy_loss, entropy_term, reference_kl_loss
from sdar.methods.declarations import Method


@dataclass(frozen=True)
class LossSettings:
    """The run's part of the loss (configuration: `training`)."""

    clip_low: float
    clip_high: float
    dual_clip: float | None
    kl_coefficient: float
    kl_estimator: str
    entropy_coefficient: float
    distillation_coefficient: float
    beta: float
    gate: str


@dataclass(frozen=True)
class TrainingLoss:
    """The loss to differentiate, its parts, and each token's gap and gate for the records.

    `statistics` are means over the response tokens given; `gap` and `gate` are None where the
    method has none. `gate` is the weight that the distillation term had at the token. For figures
    of a step, call `gates.gate_statistics` on all its micro-batches' together.
    """

    loss: Tensor
    statistics: dict[str, Tensor] = field(default_factory=dict)
    gap: Tensor | None = None
    gate: Tensor | None = None


@dataclass(frozen=True)
class _Term:
    """A term of the loss; `reported` is its name among the statistics, if its mean is one."""

    coefficient: float
    per_token: PerToken
    reported: str | None = None


def training_loss(
    method: Method,
    settings: LossSettings,
    batch: MicroBatch,
    aggregation: Aggregation,
    context: StepContext | None = None,
) -> TrainingLoss:
    """policy_coefficient * policy - c_H * entropy + c_KL * KL + lambda * distillation.

    Args:
        aggregation: with the denominator of the global batch, so that micro-batch losses add up to
            its loss.
        context: of the step (`step.step_context`), its per-token part cut to these tokens.

    A term whose coefficient is 0 is measured where its inputs are given, and never added: the run
    is bit for bit that of the method without it.

    Raises:
        SdarError: a term with a non-zero coefficient lacks its input.
    """
    mask_ST = response_tokens(batch.response_mask)
    gap_ST = weight_ST = None
    if method.distillation != "none":
        teacher_ST = required(batch.teacher_log_probs, "teacher_log_probs", method)
        gap_ST = clean(teacher_gap(batch.log_probs, teacher_ST), mask_ST)
        kind = method.gate_kind(settings.gate)
        if kind is not None:
            if method.needs_step_context:
                context = required(context, "context", method)
            weight_ST = distillation_weight(
                kind,
                gap_ST,
                beta=settings.beta,
                entropy=batch.entropy,
                context=context or NEUTRAL,
            )
            weight_ST = clean(weight_ST, mask_ST)

    statistics: dict[str, Tensor] = {}
    total: Tensor | None = None
    for term in _terms(method, settings, batch, weight_ST):
        values_ST, measured = term.per_token
        mean = aggregate(values_ST, mask_ST, aggregation)
        statistics |= measured
        if term.reported is not None:
            statistics[term.reported] = mean.detach()
        if term.coefficient != 0:
            added = term.coefficient * mean
            total = added if total is None else total + added
        elif total is None:
            # A zero that hangs on the log-probs keeps backward() legal for every method.
            total = clean(batch.log_probs, mask_ST).sum() * 0.0
    assert total is not None, "the policy term comes first"
    statistics["loss"] = total.detach()
    return TrainingLoss(total, statistics, gap_ST, weight_ST)


def _terms(
    method: Method, settings: LossSettings, batch: MicroBatch, weight_ST: Tensor | None
) -> Iterator[_Term]:
    """Each term that has a coefficient or is only measured, in the order they are added."""
    policy = clipped_policy_loss(
        batch.old_log_probs,
        batch.log_probs,
        batch.advantages,
        batch.response_mask,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high if method.clip_high is None else method.clip_high,
        dual_clip=settings.dual_clip,
    )
    yield _Term(method.policy_coefficient, policy, "policy_loss")
    if settings.entropy_coefficient != 0 or batch.entropy is not None:
        entropy = required(batch.entropy, "entropy", method)
        yield _Term(-settings.entropy_coefficient, entropy_term(entropy, batch.response_mask))
    if settings.kl_coefficient != 0 or batch.reference_log_probs is not None:
        kl = reference_kl_loss(
            batch.log_probs,
            required(batch.reference_log_probs, "reference_log_probs", method),
            batch.response_mask,
            estimator=settings.kl_estimator,
        )
        yield _Term(settings.kl_coefficient, kl)
    if method.distillation != "none":
        term = DISTILLATION_TERMS[method.distillation]
        inputs = vars(batch) | {"weight": weight_ST}
        distillation = term.loss(*(required(inputs[name], name, method) for name in term.reads))
        coefficient = method.coefficient(settings.distillation_coefficient)
        yield _Term(coefficient, distillation, "distillation_loss")
