"""The auxiliary terms that bring the teacher's dense signal into the loss.

Legend: S samples, T tokens. The teacher is the policy itself, given the privileged skill; all
log-probs are of the *sampled* tokens, in nats, and only the student's carry gradient. Each term
returns (loss, statistics); statistics are means over the response tokens given, detached.
Formulas, gradients and limits: docs/methods.md.
"""

from torch import Tensor

from sdar.algorithms.aggregation import aggregate, clean, masked_mean, response_tokens
from sdar.algorithms.gates import compute_gate, teacher_gap

_MAX_LOG_WEIGHT = 10.0
_MAX_LOG_RATIO = 20.0


def gated_distillation_loss(
    student_log_probs: Tensor,
    teacher_log_probs: Tensor,
    response_mask: Tensor,
    *,
    beta: float = 5.0,
    gate: str = "gap",
    entropy: Tensor | None = None,
    loss_agg: str = "token-mean",
    denominator: float | Tensor | None = None,
    sequence: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """SDAR's term (arXiv 2605.15155): Agg(g * (sg[log p_teacher] - log p_student)), g stopped.

    The gradient at a student log-prob is -g / N: it only ever raises the sampled token, and the
    teacher enters through the gate alone. The value may have any sign.

    Args:
        student_log_probs, teacher_log_probs, response_mask: [S, T].
        beta: sharpness of the gate; 0 makes every gate one half.
        gate: one of `gates.GATES`.
        entropy: [S, T] the student's, for the gates `entropy` and `soft_or`.
        loss_agg, denominator, sequence: see `aggregation.aggregate`.

    Returns:
        The loss, and gate_mean, gate_active_ratio (share above one half), teacher_gap_mean.
    """
    mask_ST = response_tokens(response_mask)
    student_ST = clean(student_log_probs, mask_ST)
    teacher_ST = clean(teacher_log_probs.detach(), mask_ST)
    gap_ST = teacher_gap(student_ST, teacher_ST)
    gate_ST = compute_gate(gate, gap_ST, beta=beta, entropy=entropy)
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
