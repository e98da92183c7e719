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
    teacher_share: float = 1.0
    """Of the turns, those that the teacher scores: there the distillation term counts 1 / share
    times, and nowhere else, so that on average it is that of all turns."""


@dataclass(frozen=True)
class TrainingLoss:
    """The loss to differentiate, its parts, and each token's gap and gate for the records.

    `statistics` are means over the response tokens given; `gap` and `gate` are None where the
    method has none. `gate` is the weight that the distillation term had at the token. For figures
    of a step, call `gates.gate_statistics` on all its micro-batches' together.
    """

    loss: Tensor
    statistics: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)
    """Of statistics that are means over fewer tokens, those that were taught: over how many."""
    gap: Tensor | None = None
    gate: Tensor | None = None


@dataclass(frozen=True)
class _Term:
    """A term of the loss; `reported` is its name among the statistics, if its mean is one."""

    coefficient: float
    per_token: PerToken
    reported: str | None = None
    of_taught: bool = False
    """Its statistics are means over the tokens that were taught."""


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
    is bit for bit that of the method without it. Where the schedule has ended the distillation term
    (`context.coefficient_left`), the teacher is not needed.

    Raises:
        SdarError: a term with a non-zero coefficient lacks its input.
    """
    mask_ST = response_tokens(batch.response_mask)
    if method.needs_step_context:
        context = required(context, "context", method)
    context = context or NEUTRAL
    taught_ST = mask_ST if context.taught is None else mask_ST & context.taught
    gap_ST = weight_ST = None
    if _distils(method, context):
        teacher_ST = required(batch.teacher_log_probs, "teacher_log_probs", method)
        gap_ST = clean(teacher_gap(batch.log_probs, teacher_ST), taught_ST)
        kind = method.gate_kind(settings.gate)
        if kind is not None:
            weight_ST = distillation_weight(
                kind,
                gap_ST,
                beta=settings.beta,
                entropy=batch.entropy,
                context=context,
            )
            weight_ST = clean(weight_ST, taught_ST)

    statistics: dict[str, Tensor] = {}
    total: Tensor | None = None
    counts: dict[str, Tensor] = {}
    for term in _terms(method, settings, batch, weight_ST, context):
        values_ST, measured = term.per_token
        mean = aggregate(values_ST, mask_ST, aggregation)
        statistics |= measured
        if term.of_taught and context.taught is not None:
            counts |= dict.fromkeys(measured, taught_ST.sum())
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
    return TrainingLoss(total, statistics, counts, gap_ST, weight_ST)


def _distils(method: Method, context: StepContext) -> bool:
    """The schedule has not ended the method's distillation term."""
    return method.distillation != "none" and context.coefficient_left != 0


def _terms(
    method: Method,
    settings: LossSettings,
    batch: MicroBatch,
    weight_ST: Tensor | None,
    context: StepContext,
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
    if _distils(method, context):
        yield _distillation(method, settings, batch, weight_ST, context)


def _distillation(
    method: Method,
    settings: LossSettings,
    batch: MicroBatch,
    weight_ST: Tensor | None,
    context: StepContext,
) -> _Term:
    """The teacher's term: nothing where a turn was not taught, 1 / share times where it was."""
    term = DISTILLATION_TERMS[method.distillation]
    inputs = vars(batch) | {"weight": weight_ST}
    if context.taught is not None:
        inputs["response_mask"] = response_tokens(batch.response_mask) & context.taught
    values_ST, measured = term.loss(*(required(inputs[name], name, method) for name in term.reads))
    if context.taught is not None:
        values_ST = clean(values_ST, inputs["response_mask"])
    if settings.teacher_share != 1:
        values_ST = values_ST / settings.teacher_share
    coefficient = method.coefficient(settings.distillation_coefficient) * context.coefficient_left
    return _Term(coefficient, (values_ST, measured), "distillation_loss", of_taught=True)
