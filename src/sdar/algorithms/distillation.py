"""The auxiliary terms that bring the teacher's dense signal into the loss.

Legend: S samples, T tokens. The teacher is the policy itself, given the privileged skill; all
log-probs are of the *sampled* tokens, in nats, and only the student's carry gradient. Each term
returns its loss per token, [S, T], and statistics: means over the response tokens given, detached.
Formulas, gradients and limits: docs/methods.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from sdar.algorithms.aggregation import PerToken, clean, masked_mean, response_tokens
from sdar.algorithms.context import NEUTRAL, StepContext
from sdar.algorithms.gates import compute_gate, teacher_gap

_MAX_LOG_WEIGHT = 10.0
_MAX_LOG_RATIO = 20.0


def distillation_weight(
    kind: str,
    gap: Tensor,
    *,
    beta: float,
    entropy: Tensor | None = None,
    context: StepContext = NEUTRAL,
) -> Tensor:
    """keep * (gate - baseline), shaped like `gap`, without gradient: the gated term's weight per
    token.

    Args:
        kind, gap, beta, entropy: of the gate, see `gates.compute_gate`.
        context: the step's constants; tokens it does not keep still count in the denominator.
    """
    gate = compute_gate(
        kind, gap, beta=beta, entropy=entropy, centre=context.centre, scale=context.scale
    )
    weight = gate - context.baseline
    return weight if context.keep is None else clean(weight, response_tokens(context.keep))


def gated_distillation_loss(
    student_log_probs: Tensor,
    teacher_log_probs: Tensor,
    response_mask: Tensor,
    weight: Tensor,
) -> PerToken:
    """SDAR's term (arXiv 2605.15155): g * (sg[log p_teacher] - log p_student), g stopped.

    The gradient at a student log-prob is -g / N: without a baseline it only ever raises the sampled
    token, and the teacher enters through the gate alone. The value may have any sign.

    Args:
        student_log_probs, teacher_log_probs, response_mask: [S, T].
        weight: [S, T] g as `distillation_weight` gives it: gate, baseline and keep together.

    Returns:
        The loss per token; gate_mean and gate_active_ratio (share above one half) of the weights;
        and teacher_gap_mean.
    """
    mask_ST = response_tokens(response_mask)
    student_ST = clean(student_log_probs, mask_ST)
    teacher_ST = clean(teacher_log_probs.detach(), mask_ST)
    return weight * (teacher_ST - student_ST), {
        "gate_mean": masked_mean(weight, mask_ST),
        "gate_active_ratio": masked_mean((weight > 0.5).to(weight.dtype), mask_ST),
        "teacher_gap_mean": masked_mean(teacher_gap(student_ST, teacher_ST), mask_ST),
    }


def skill_sd_loss(
    student_log_probs: Tensor,
    teacher_log_probs: Tensor,
    old_log_probs: Tensor,
    response_mask: Tensor,
) -> PerToken:
    """Skill-SD as the SDAR reference code has it: rho * k3, gradient through both factors.

    d = log p_student - log p_teacher, k3 = exp(min(-d, 20)) - 1 + d,
    rho = exp(min(log p_student - log p_old, 10)). Statistics: `importance_mean`,
    `skill_kl_mean` (mean k3) and teacher_gap_mean.
    """
    mask_ST = response_tokens(response_mask)
    student_ST = clean(student_log_probs, mask_ST)
    d_ST = student_ST - clean(teacher_log_probs.detach(), mask_ST)
    k3_ST = (-d_ST).clamp(max=_MAX_LOG_RATIO).exp() - 1 + d_ST
    rho_ST = (student_ST - clean(old_log_probs.detach(), mask_ST)).clamp(max=_MAX_LOG_WEIGHT).exp()
    return rho_ST * k3_ST, {
        "importance_mean": masked_mean(rho_ST, mask_ST),
        "skill_kl_mean": masked_mean(k3_ST, mask_ST),
        "teacher_gap_mean": masked_mean(-d_ST, mask_ST),
    }


def reverse_kl_loss(
    student_log_probs: Tensor,
    teacher_log_probs: Tensor,
    response_mask: Tensor,
) -> PerToken:
    """The sampled reverse-KL policy gradient: -sg[D] * log p_student.

    On on-policy tokens its gradient, -D / N at each student log-prob, is an unbiased estimate of
    the gradient of KL(student || teacher) at each visited state. Unlike the gated term it lowers
    tokens the teacher finds less likely. The value is a surrogate; the estimate of the divergence
    itself is `reverse_kl` (mean of -D) in the statistics, beside teacher_gap_mean.
    """
    mask_ST = response_tokens(response_mask)
    student_ST = clean(student_log_probs, mask_ST)
    gap_ST = teacher_gap(student_ST, clean(teacher_log_probs, mask_ST))
    gap_mean = masked_mean(gap_ST, mask_ST)
    return -gap_ST * student_ST, {"reverse_kl": -gap_mean, "teacher_gap_mean": gap_mean}


def vocabulary_reverse_kl(student_log_probs_NV: Tensor, teacher_log_probs_NV: Tensor) -> Tensor:
    """[N] KL(student || teacher) over the whole vocabulary at each position, in nats.

    sum_v p_S(v) (log p_S(v) - sg[log p_T(v)]), both sides normalised; the gradient flows through
    p_S in full. Positions are independent, so callers may work on chunks of them.
    """
    difference_NV = student_log_probs_NV - teacher_log_probs_NV.detach()
    return (student_log_probs_NV.exp() * difference_NV).sum(dim=-1)


def full_reverse_kl_loss(divergence: Tensor, response_mask: Tensor) -> PerToken:
    """KL_t itself, [S, T] as `vocabulary_reverse_kl` gives it, differentiable.

    The statistic `reverse_kl` (mean of KL_t) is what the one of `reverse_kl_loss` estimates from
    sampled tokens.
    """
    return divergence, {"reverse_kl": masked_mean(divergence, response_tokens(response_mask))}


@dataclass(frozen=True)
class DistillationTerm:
    """A term, and the parts of a micro-batch it is called with."""

    loss: Callable[..., PerToken]
    reads: tuple[str, ...]
    """Fields of `inputs.MicroBatch`, or `weight`, in the order of the arguments."""


_BOTH = ("log_probs", "teacher_log_probs")
DISTILLATION_TERMS: dict[str, DistillationTerm] = {
    "gated": DistillationTerm(gated_distillation_loss, (*_BOTH, "response_mask", "weight")),
    "skill_sd": DistillationTerm(skill_sd_loss, (*_BOTH, "old_log_probs", "response_mask")),
    "reverse_kl": DistillationTerm(reverse_kl_loss, (*_BOTH, "response_mask")),
    "reverse_kl_full": DistillationTerm(
        full_reverse_kl_loss, ("teacher_divergence", "response_mask")
    ),
}
"""By the name in a method's declaration (`Method.distillation`)."""
