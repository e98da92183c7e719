"""The auxiliary terms that bring the teacher's dense signal into the loss.

Legend: S samples, T tokens. The teacher is the policy itself, given the privileged skill; all
log-probs are of the *sampled* tokens, in nats, and only the student's carry gradient. Each term
returns (loss, statistics); statistics are means over the response tokens given, detached.
Formulas, gradients and limits: docs/methods.md.
"""

import math

from torch import Tensor

from sdar.algorithms.aggregation import aggregate, clean, masked_mean, response_tokens
from sdar.algorithms.gates import compute_gate, teacher_gap

_MAX_LOG_WEIGHT = 10.0
_MAX_LOG_RATIO = 20.0


def distillation_weight(
    gap: Tensor,
    *,
    beta: float = 5.0,
    gate: str = "gap",
    entropy: Tensor | None = None,
    centre: float = 0.0,
    scale: float = math.inf,
    baseline: float | Tensor = 0.0,
    keep: Tensor | None = None,
) -> Tensor:
    """keep * (gate - baseline), shaped like `gap`, without gradient: what the gated term multiplies
    a token with. Arguments as for `gated_distillation_loss`."""
    weight = compute_gate(gate, gap, beta=beta, entropy=entropy, centre=centre, scale=scale)
    weight = weight - baseline
    return weight if keep is None else clean(weight, response_tokens(keep))


def gated_distillation_loss(
    student_log_probs: Tensor,
    teacher_log_probs: Tensor,
    response_mask: Tensor,
    *,
    beta: float = 5.0,
    gate: str = "gap",
    entropy: Tensor | None = None,
    centre: float = 0.0,
    scale: float = math.inf,
    baseline: float | Tensor = 0.0,
    keep: Tensor | None = None,
    loss_agg: str = "token-mean",
    denominator: float | Tensor | None = None,
    sequence: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """SDAR's term (arXiv 2605.15155): Agg(g * (sg[log p_teacher] - log p_student)), g stopped.

    The gradient at a student log-prob is -g / N: without a baseline it only ever raises the sampled
    token, and the teacher enters through the gate alone. The value may have any sign.

    Args:
        student_log_probs, teacher_log_probs, response_mask: [S, T].
        beta: sharpness of the gate; 0 makes every gate one half.
        gate: one of `gates.GATES`, or `adaptive`.
        entropy: [S, T] the student's, for the gates `entropy` and `soft_or`.
        centre, scale: of the adaptive gate, in nats.
        baseline: subtracted from every gate; a number of the whole step, without gradient.
        keep: [S, T], zero where a token gets weight 0. It still counts in the denominator.
        loss_agg, denominator, sequence: see `aggregation.aggregate`.

    Returns:
        The loss, and, of the weights as applied (gate, baseline and keep together): gate_mean,
        gate_active_ratio (share above one half); and teacher_gap_mean.
    """
    mask_ST = response_tokens(response_mask)
    student_ST = clean(student_log_probs, mask_ST)
    teacher_ST = clean(teacher_log_probs.detach(), mask_ST)
    gap_ST = teacher_gap(student_ST, teacher_ST)
    gate_ST = distillation_weight(
        gap_ST,
        beta=beta,
        gate=gate,
        entropy=entropy,
        centre=centre,
        scale=scale,
        baseline=baseline,
        keep=keep,
    )
    loss = aggregate(
        gate_ST * (teacher_ST - student_ST),
        response_mask,
        loss_agg,
        denominator=denominator,
        sequence=sequence,
    )
    return loss, {
        "gate_mean": masked_mean(gate_ST, mask_ST),
        "gate_active_ratio": masked_mean((gate_ST > 0.5).to(gate_ST.dtype), mask_ST),
        "teacher_gap_mean": masked_mean(gap_ST, mask_ST),
    }


def skill_sd_loss(
    student_log_probs: Tensor,
    teacher_log_probs: Tensor,
    old_log_probs: Tensor,
    response_mask: Tensor,
    *,
    loss_agg: str = "token-mean",
    denominator: float | Tensor | None = None,
    sequence: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Skill-SD as the SDAR reference code has it: Agg(rho * k3), gradient through both factors.

    d = log p_student - log p_teacher, k3 = exp(min(-d, 20)) - 1 + d,
    rho = exp(min(log p_student - log p_old, 10)). Returns the loss, and `importance_mean`,
    `skill_kl_mean` (mean k3) and teacher_gap_mean.
    """
    mask_ST = response_tokens(response_mask)
    student_ST = clean(student_log_probs, mask_ST)
    d_ST = student_ST - clean(teacher_log_probs.detach(), mask_ST)
    k3_ST = (-d_ST).clamp(max=_MAX_LOG_RATIO).exp() - 1 + d_ST
    rho_ST = (student_ST - clean(old_log_probs.detach(), mask_ST)).clamp(max=_MAX_LOG_WEIGHT).exp()
    loss = aggregate(
        rho_ST * k3_ST, response_mask, loss_agg, denominator=denominator, sequence=sequence
    )
    return loss, {
        "importance_mean": masked_mean(rho_ST, mask_ST),
        "skill_kl_mean": masked_mean(k3_ST, mask_ST),
        "teacher_gap_mean": masked_mean(-d_ST, mask_ST),
    }


def reverse_kl_loss(
    student_log_probs: Tensor,
    teacher_log_probs: Tensor,
    response_mask: Tensor,
    *,
    loss_agg: str = "token-mean",
    denominator: float | Tensor | None = None,
    sequence: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The sampled reverse-KL policy gradient: -Agg(sg[D] * log p_student).

    On on-policy tokens its gradient, -D / N at each student log-prob, is an unbiased estimate of
    the gradient of KL(student || teacher) at each visited state. Unlike the gated term it lowers
    tokens the teacher finds less likely. The value is a surrogate; the estimate of the divergence
    itself is `reverse_kl` (mean of -D) in the statistics, beside teacher_gap_mean.
    """
    mask_ST = response_tokens(response_mask)
    student_ST = clean(student_log_probs, mask_ST)
    gap_ST = teacher_gap(student_ST, clean(teacher_log_probs, mask_ST))
    loss = aggregate(
        -gap_ST * student_ST, response_mask, loss_agg, denominator=denominator, sequence=sequence
    )
    gap_mean = masked_mean(gap_ST, mask_ST)
    return loss, {"reverse_kl": -gap_mean, "teacher_gap_mean": gap_mean}


def vocabulary_reverse_kl(student_log_probs_NV: Tensor, teacher_log_probs_NV: Tensor) -> Tensor:
    """[N] KL(student || teacher) over the whole vocabulary at each position, in nats.

    sum_v p_S(v) (log p_S(v) - sg[log p_T(v)]), both sides normalised; the gradient flows through
    p_S in full. Positions are independent, so callers may work on chunks of them.
    """
    difference_NV = student_log_probs_NV - teacher_log_probs_NV.detach()
    return (student_log_probs_NV.exp() * difference_NV).sum(dim=-1)


def full_reverse_kl_loss(
    divergence: Tensor,
    response_mask: Tensor,
    *,
    loss_agg: str = "token-mean",
    denominator: float | Tensor | None = None,
    sequence: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Agg(KL_t), KL_t [S, T] as `vocabulary_reverse_kl` gives it, differentiable.

    The statistic `reverse_kl` (mean of KL_t) is what the one of `reverse_kl_loss` estimates from
    sampled tokens.
    """
    mask_ST = response_tokens(response_mask)
    loss = aggregate(
        divergence, response_mask, loss_agg, denominator=denominator, sequence=sequence
    )
    return loss, {"reverse_kl": masked_mean(divergence, mask_ST)}
