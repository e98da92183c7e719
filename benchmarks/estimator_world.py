"""What a distillation term does on average, and how noisily: simulated, and enumerated.

A world of a few states with a softmax policy over a few tokens is small enough for exact sums over
everything that can be sampled, so the simulation has something to be held against. The simulation
draws tokens from the policy and differentiates the very loss functions that training uses; the
enumeration uses none of them.

An *update* is minus a gradient with respect to the logits: where the term moves them. All in
float64, and a function of the seeds.

Legend: K states, V tokens of the vocabulary, B simulated training steps, N tokens of a step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdar.algorithms.aggregation import Aggregation, aggregate
from sdar.algorithms.distillation import (
    full_reverse_kl_loss,
    gated_distillation_loss,
    reverse_kl_loss,
    vocabulary_reverse_kl,
)
from sdar.algorithms.gates import compute_gate, teacher_gap

STEPS_AT_ONCE = 2000


@dataclass(frozen=True)
class SoftmaxWorld:
    """States drawn independently, a student that is trained, a teacher that stays."""

    student_logits_KV: Tensor
    teacher_logits_KV: Tensor
    visits_K: Tensor
    """Probability of each state."""

    @property
    def student_KV(self) -> Tensor:
        """Log-probs."""
        return self.student_logits_KV.log_softmax(-1)

    @property
    def teacher_KV(self) -> Tensor:
        """Log-probs."""
        return self.teacher_logits_KV.log_softmax(-1)

    @property
    def gap_KV(self) -> Tensor:
        """D of every token, were it sampled."""
        return teacher_gap(self.student_KV, self.teacher_KV)

    @property
    def chance_KV(self) -> Tensor:
        """Of a sampled token to be v in state k; sums to 1."""
        return self.visits_K[:, None] * self.student_KV.exp()


def random_world(
    seed: int, spreads: tuple[float, ...] = (0.5, 1.5, 3.0), vocabulary: int = 4, shift: float = 1.0
) -> SoftmaxWorld:
    """A state for each of `spreads` (of the student's logits: from unsure to confident), all
    visited alike; the teacher's logits differ from the student's by about `shift`."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(spreads), vocabulary)

    def normal() -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    spread_K1 = torch.tensor(spreads, dtype=torch.float64)[:, None]
    student_KV = spread_K1 * normal()
    visits_K = torch.full((len(spreads),), 1 / len(spreads), dtype=torch.float64)
    return SoftmaxWorld(student_KV, student_KV + shift * normal(), visits_K)


# Exactly: everything that can be sampled, with its probability.


def sampled_updates(world: SoftmaxWorld, weight_KV: Tensor) -> Tensor:
    """[K, V, V] update of state k's logits when its token v is sampled, for a term whose gradient
    at the sampled log-prob is -weight: weight * (one-hot of v - probabilities)."""
    probabilities_KV = world.student_KV.exp()
    score_KVV = torch.eye(weight_KV.shape[1], dtype=weight_KV.dtype) - probabilities_KV[:, None, :]
    return weight_KV[..., None] * score_KVV


def full_reverse_kl_updates(world: SoftmaxWorld) -> Tensor:
    """[K, V, V] update by -grad KL(student || teacher) in state k, whatever token v is sampled."""
    probabilities_KV = world.student_KV.exp()
    divergence_K1 = (probabilities_KV * -world.gap_KV).sum(-1, keepdim=True)
    update_KV = probabilities_KV * (world.gap_KV + divergence_K1)
    return update_KV[:, None, :].expand(-1, update_KV.shape[1], -1)


def expected_update(world: SoftmaxWorld, updates_KVV: Tensor) -> Tensor:
    """[K, V] mean update of a token."""
    return (world.chance_KV[..., None] * updates_KVV).sum(dim=1)


def update_variance(world: SoftmaxWorld, updates_KVV: Tensor) -> float:
    """Of one token's update, summed over all logits."""
    second = (world.chance_KV * updates_KVV.square().sum(-1)).sum()
    return float(second - expected_update(world, updates_KVV).square().sum())


def mean_gate(world: SoftmaxWorld, gate_KV: Tensor) -> float:
    """The gate a sampled token has on average: the baseline of the centred gate."""
    return float((world.chance_KV * gate_KV).sum())


def best_baseline(world: SoftmaxWorld, gate_KV: Tensor) -> float:
    """The constant with the smallest variance: the mean gate weighted by the squared score."""
    weight_KV = world.chance_KV * sampled_updates(world, torch.ones_like(gate_KV)).square().sum(-1)
    return float((weight_KV * gate_KV).sum() / weight_KV.sum())


# By simulation: tokens drawn from the student, the losses of training, autograd.


@dataclass(frozen=True)
class SampledSteps:
    """B steps of N tokens each; what carries gradient is the student."""

    student_BN: Tensor
    teacher_BN: Tensor
    student_BNV: Tensor
    teacher_BNV: Tensor

    @property
    def mask_BN(self) -> Tensor:
        return torch.ones_like(self.teacher_BN)


Term = Callable[[SampledSteps], Tensor]
"""[B, N] the loss of each token."""
# Each step is a row, so this is a token-mean per step; the steps' losses are added.
_EACH_STEP = Aggregation("seq-mean-token-mean", denominator=1.0)


def gated_term(*, gate: str = "gap", beta: float = 5.0, baseline: float = 0.0) -> Term:
    """SDAR's term, with a baseline known beforehand."""

    def loss(steps: SampledSteps) -> Tensor:
        gap_BN = teacher_gap(steps.student_BN, steps.teacher_BN)
        return _gated(steps, compute_gate(gate, gap_BN, beta=beta) - baseline)

    return loss


def centred_term(*, gate: str = "gap", beta: float = 5.0) -> Term:
    """SDAR's term with each step's own mean gate as its baseline, as `sdar_centred` has it."""

    def loss(steps: SampledSteps) -> Tensor:
        gap_BN = teacher_gap(steps.student_BN, steps.teacher_BN)
        gate_BN = compute_gate(gate, gap_BN, beta=beta)
        return _gated(steps, gate_BN - gate_BN.mean(dim=1, keepdim=True))

    return loss


def _gated(steps: SampledSteps, weight_BN: Tensor) -> Tensor:
    return gated_distillation_loss(steps.student_BN, steps.teacher_BN, steps.mask_BN, weight_BN)[0]


def reverse_kl_term(steps: SampledSteps) -> Tensor:
    """The sampled reverse KL."""
    return reverse_kl_loss(steps.student_BN, steps.teacher_BN, steps.mask_BN)[0]


def full_reverse_kl_term(steps: SampledSteps) -> Tensor:
    """The reverse KL over the vocabulary, at the states that were sampled."""
    flat_NV = steps.student_BNV.flatten(0, 1)
    divergence_N = vocabulary_reverse_kl(flat_NV, steps.teacher_BNV.flatten(0, 1))
    return full_reverse_kl_loss(divergence_N.view(steps.teacher_BN.shape), steps.mask_BN)[0]


def simulate(world: SoftmaxWorld, term: Term, *, tokens: int, steps: int, seed: int) -> Tensor:
    """[B, K, V] the update of each of `steps` steps of `tokens` tokens.

    The same seed draws the same tokens for every term, so terms are compared on equal samples.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.cat(
        [
            _updates(world, term, min(STEPS_AT_ONCE, steps - done), tokens, generator)
            for done in range(0, steps, STEPS_AT_ONCE)
        ]
    )


def _updates(
    world: SoftmaxWorld, term: Term, steps: int, tokens: int, generator: torch.Generator
) -> Tensor:
    vocabulary = world.student_logits_KV.shape[1]
    drawn = torch.multinomial(
        world.chance_KV.flatten(), steps * tokens, replacement=True, generator=generator
    ).view(steps, tokens)
    state_BN, token_BN1 = drawn // vocabulary, (drawn % vocabulary)[..., None]
    logits_BKV = world.student_logits_KV.expand(steps, -1, -1).clone().requires_grad_()
    step_B1 = torch.arange(steps)[:, None]
    student_BNV = logits_BKV.log_softmax(-1)[step_B1, state_BN]
    teacher_BNV = world.teacher_KV[state_BN]
    sampled = SampledSteps(
        student_BN=student_BNV.gather(-1, token_BN1)[..., 0],
        teacher_BN=teacher_BNV.gather(-1, token_BN1)[..., 0],
        student_BNV=student_BNV,
        teacher_BNV=teacher_BNV,
    )
    loss = aggregate(term(sampled), sampled.mask_BN, _EACH_STEP)
    (gradient_BKV,) = torch.autograd.grad(loss, logits_BKV)
    return -gradient_BKV


def mean_and_error(values_B: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the first dimension and its standard error."""
    return values_B.mean(dim=0), values_B.std(dim=0) / len(values_B) ** 0.5


def squared_deviations(updates_BKV: Tensor, tokens: int) -> Tensor:
    """[B] values whose mean estimates `update_variance`: squared distance of each step's update
    from their mean, times the tokens that were averaged."""
    scale = tokens * len(updates_BKV) / (len(updates_BKV) - 1)
    return scale * (updates_BKV - updates_BKV.mean(dim=0)).square().sum(dim=(1, 2))
