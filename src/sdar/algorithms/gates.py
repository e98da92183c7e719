"""The gate: how much of the distillation term each sampled token receives.

Legend: S samples, T tokens. The gap is D = log p_teacher - log p_student of the sampled token, in
nats; the teacher is the same policy given the privileged skill. A gate is a number in [0, 1] and
never carries gradient. Source: SDAR (arXiv 2605.15155), gate variants; the released reference code
has the gap gate alone; the adaptive gate is this project's. See docs/methods.md.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from sdar.algorithms.aggregation import clean, response_tokens
from sdar.errors import SdarError
from sdar.methods.gates import GATES, RUN_GATES

QUANTILES: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95)


def teacher_gap(student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
    """D = log p_teacher - log p_student, without gradient. Same shape, nats."""
    return teacher_log_probs.detach() - student_log_probs.detach()


def gap_gate(gap: Tensor, *, beta: float) -> Tensor:
    """sigmoid(beta * D): above one half where the teacher finds the token likelier."""
    return torch.sigmoid(beta * gap.detach())


def entropy_gate(_gap: Tensor, *, entropy: Tensor, beta: float) -> Tensor:
    """sigmoid(beta * h), h the student's entropy at the token in nats: in [0.5, 1)."""
    return torch.sigmoid(beta * entropy.detach())


def soft_or_gate(gap: Tensor, *, entropy: Tensor, beta: float) -> Tensor:
    """sigmoid(beta * [1 - (1 - h)(1 - D)]): open where the student is unsure or the gap is wide."""
    return torch.sigmoid(beta * (1 - (1 - entropy.detach()) * (1 - gap.detach())))


def constant_gate(gap: Tensor) -> Tensor:
    """One half everywhere, what every gate becomes at beta = 0."""
    return torch.full_like(gap, 0.5)


def adaptive_gate(gap: Tensor, *, centre: float, scale: float) -> Tensor:
    """max(0, tanh((D - centre) / scale)): shut up to the centre, open some scales above it."""
    return torch.tanh((gap.detach() - centre) / scale).clamp(min=0)


FORMULAS: dict[str, Callable[..., Tensor]] = {
    "gap": gap_gate,
    "entropy": entropy_gate,
    "soft_or": soft_or_gate,
    "none": constant_gate,
    "adaptive": adaptive_gate,
}
"""By the names of `sdar.methods.gates`. A formula is called with the gap and with what its
declaration says it uses: `entropy`, `beta`, or the step's `centre` and `scale`."""


def compute_gate(
    kind: str,
    gap: Tensor,
    *,
    beta: float,
    entropy: Tensor | None = None,
    centre: float = 0.0,
    scale: float = math.inf,
) -> Tensor:
    """The gate named `kind`, shaped like `gap`, without gradient.

    Args:
        kind: one of `sdar.methods.gates.GATES`.
        beta: sharpness of the sigmoid gates.
        entropy: the student's, for the gates that read it.
        centre, scale: of the adaptive gate, in nats; see `context.StepContext`.

    Raises:
        SdarError: unknown kind, or a kind that needs the entropy without it.
    """
    declared = GATES.get(kind)
    if declared is None:
        raise SdarError(
            f"gate is {kind!r}, expected one of {', '.join(RUN_GATES)}: "
            "correct training.distillation.gate"
        )
    used: dict[str, Tensor | float] = {}
    if declared.reads_entropy:
        if entropy is None:
            raise SdarError(
                f"gate {kind!r} needs the student's entropy per token and got none: pass "
                "`entropy`, or set training.distillation.gate to gap"
            )
        used["entropy"] = entropy
    if declared.uses_beta:
        used["beta"] = beta
    if declared.uses_step:
        used |= {"centre": centre, "scale": scale}
    return FORMULAS[kind](gap, **used)


def quantile(sorted_N: Tensor, q: float) -> float:
    """Linear interpolation between order statistics (torch.quantile stops at 16 M values)."""
    position = q * (sorted_N.numel() - 1)
    low = int(position)
    high = min(low + 1, sorted_N.numel() - 1)
    return float(torch.lerp(sorted_N[low], sorted_N[high], position - low))


def gate_statistics(
    gate: Tensor,
    gap: Tensor,
    response_mask: Tensor,
    *,
    parts: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """What the gate did, over all response tokens of a step at once.

    Args:
        gate, gap: any one shape (padded, packed, or all tokens of a step concatenated). `gate` is
            the weight that was applied, so it may be negative (a centred gate).
        response_mask: same shape, non-zero at response tokens.
        parts: named masks that broadcast to that shape (say `failed`: [S, 1]); each adds
            `gate_mass_<name>`, its share of the sum of |gate|, and `gate_mean_<name>` where it
            has tokens.

    Returns:
        tokens, gate_mean, gate_q05 ... gate_q95, gate_active_ratio (share of gates > 0.5),
        teacher_gap_mean, teacher_gap_std (unbiased; 0 for one token). Only `tokens` = 0 when the
        mask is empty. Numbers are finite, in float64.
    """
    mask = response_tokens(response_mask)
    gate_N = gate.detach()[mask].double()
    gap_N = gap.detach()[mask].double()
    tokens = gate_N.numel()
    if tokens == 0:
        return {"tokens": 0.0}
    sorted_N = gate_N.sort().values
    statistics = {"tokens": float(tokens), "gate_mean": float(gate_N.mean())}
    for q in QUANTILES:
        statistics[f"gate_q{round(100 * q):02d}"] = quantile(sorted_N, q)
    statistics["gate_active_ratio"] = float((gate_N > 0.5).double().mean())
    statistics["teacher_gap_mean"] = float(gap_N.mean())
    statistics["teacher_gap_std"] = float(gap_N.std()) if tokens > 1 else 0.0
    total = float(gate_N.abs().sum())
    for name, part in (parts or {}).items():
        inside_N = response_tokens(part).expand(mask.shape)[mask]
        mass = float(gate_N[inside_N].abs().sum())
        statistics[f"gate_mass_{name}"] = mass / total if total > 0 else 0.0
        if bool(inside_N.any()):
            statistics[f"gate_mean_{name}"] = float(gate_N[inside_N].sum()) / int(inside_N.sum())
    return statistics


def gate_by_position(
    gate_ST: Tensor,
    response_mask_ST: Tensor,
    *,
    edges: Sequence[int] = (0, 4, 8, 16, 32, 64, 128, 256),
    position: Tensor | None = None,
) -> dict[int, float]:
    """Mean gate by place in the response: {first position of a bin: mean}, empty bins left out.

    A bin runs from its edge up to the next one, the last to the end. Positions count a row's
    response tokens from 0, whatever the padding; packed rows give their own `position` [S, T].
    """
    mask_ST = response_tokens(response_mask_ST)
    if position is None:
        position = mask_ST.long().cumsum(dim=-1) - 1
    place_N = position[mask_ST]
    gate_N = clean(gate_ST.detach(), mask_ST)[mask_ST].double()
    means = {}
    for first, end in zip(edges, [*edges[1:], None], strict=True):
        inside_N = place_N >= first
        if end is not None:
            inside_N &= place_N < end
        if bool(inside_N.any()):
            means[first] = float(gate_N[inside_N].mean())
    return means
