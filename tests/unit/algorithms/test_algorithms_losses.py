"""Properties of the loss terms that hold for every batch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdar.algorithms.aggregation import (
    LOSS_AGGREGATIONS,
    Aggregation,
    aggregate,
    global_denominator,
)
from sdar.algorithms.context import StepContext
from sdar.algorithms.distillation import (
    distillation_weight,
    full_reverse_kl_loss,
    gated_distillation_loss,
    reverse_kl_loss,
    skill_sd_loss,
    vocabulary_reverse_kl,
)
from sdar.algorithms.gates import teacher_gap
from sdar.algorithms.policy_loss import clipped_policy_loss, importance_weights, reference_kl
from sdar.errors import SdarError


@dataclass(frozen=True)
class Batch:
    """[S, T] float64 tensors; each row has a response at its left and padding after it."""

    student: Tensor
    teacher: Tensor
    old: Tensor
    reference: Tensor
    entropy: Tensor
    advantages: Tensor
    mask: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(**{name: change(value) for name, value in vars(self).items()})


def make_batch(seed: int, samples: int, tokens: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(samples, tokens, generator=generator, dtype=torch.float64)

    student = -normal().abs() - 0.1
    lengths = torch.randint(1, tokens + 1, (samples, 1), generator=generator)
    return Batch(
        student=student,
        teacher=student + normal(),
        old=student + 0.3 * normal(),
        reference=student + 0.3 * normal(),
        entropy=normal().abs(),
        advantages=normal()[:, :1].expand(samples, tokens).contiguous(),
        mask=(torch.arange(tokens) < lengths).double(),
    )


batches = st.builds(
    make_batch, st.integers(0, 2**31), samples=st.integers(1, 6), tokens=st.integers(1, 7)
)
aggregations = st.sampled_from(LOSS_AGGREGATIONS)
TOKEN_MEAN = Aggregation("token-mean")
PAPER = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3.0}
Term = Callable[..., Tensor]
"""[S, T] the loss of each token."""


def policy_term(batch: Batch) -> Tensor:
    return clipped_policy_loss(batch.old, batch.student, batch.advantages, batch.mask, **PAPER)[0]


def kl_term(batch: Batch) -> Tensor:
    return reference_kl(batch.student, batch.reference)


def gated(
    batch: Batch,
    gate: str = "gap",
    *,
    beta: float = 5.0,
    entropy: Tensor | None = None,
    **constants: float | Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The gated term with its weight, under some constants of the step."""
    weight = distillation_weight(
        gate,
        teacher_gap(batch.student, batch.teacher),
        beta=beta,
        entropy=entropy,
        context=StepContext(**constants),
    )
    return gated_distillation_loss(batch.student, batch.teacher, batch.mask, weight)


def gap_term(batch: Batch, **how: Any) -> Tensor:
    return gated(batch, **how)[0]


def entropy_gate_term(batch: Batch) -> Tensor:
    return gated(batch, "entropy", entropy=batch.entropy)[0]


def soft_or_term(batch: Batch) -> Tensor:
    return gated(batch, "soft_or", entropy=batch.entropy)[0]


def skill_sd_term(batch: Batch) -> Tensor:
    return skill_sd_loss(batch.student, batch.teacher, batch.old, batch.mask)[0]


def reverse_kl_term(batch: Batch) -> Tensor:
    return reverse_kl_loss(batch.student, batch.teacher, batch.mask)[0]


def centred_term(batch: Batch) -> Tensor:
    return gated(batch, baseline=0.37)[0]


def adaptive_term(batch: Batch) -> Tensor:
    return gated(batch, "adaptive", centre=0.1, scale=0.6)[0]


def kept_term(batch: Batch) -> Tensor:
    return gated(batch, keep=batch.advantages.detach() >= 0)[0]


def divergence(batch: Batch) -> Tensor:
    """[S, T] over a vocabulary of two, the sampled token and the other one; 0 off the response."""
    inside = batch.mask != 0
    student = batch.student[inside]
    student_NV = torch.stack([student, (-student.expm1()).log()], dim=-1)
    teacher = batch.teacher[inside]
    teacher_NV = torch.stack([teacher, torch.zeros_like(teacher)], dim=-1).log_softmax(-1)
    divergence_N = vocabulary_reverse_kl(student_NV, teacher_NV)
    return divergence_N.new_zeros(inside.shape).masked_scatter(inside, divergence_N)


def full_reverse_kl_term(batch: Batch) -> Tensor:
    return full_reverse_kl_loss(divergence(batch), batch.mask)[0]


TERMS: list[Term] = [
    policy_term,
    kl_term,
    gap_term,
    entropy_gate_term,
    soft_or_term,
    skill_sd_term,
    reverse_kl_term,
    centred_term,
    adaptive_term,
    kept_term,
    full_reverse_kl_term,
]
every_term = pytest.mark.parametrize("term", TERMS, ids=lambda term: term.__name__)
some = settings(max_examples=25, deadline=None)


def value_and_gradient(
    term: Term, batch: Batch, aggregation: Aggregation = TOKEN_MEAN, **how: object
) -> tuple[Tensor, Tensor]:
    student = batch.student.detach().clone().requires_grad_()
    loss = aggregate(term(replace(batch, student=student), **how), batch.mask, aggregation)
    loss.backward()
    assert student.grad is not None
    return loss.detach(), student.grad


def close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@every_term
@some
@given(batch=batches, loss_agg=aggregations)
def test_gradient_reaches_the_student_alone(term: Term, batch: Batch, loss_agg: str) -> None:
    inputs = batch.map(lambda value: value.clone().requires_grad_())
    inputs = replace(inputs, mask=batch.mask)
    aggregate(term(inputs), batch.mask, Aggregation(loss_agg)).backward()
    assert inputs.student.grad is not None
    assert inputs.student.grad[batch.mask == 0].eq(0).all()
    for name in ("teacher", "old", "reference", "entropy", "advantages"):
        assert getattr(inputs, name).grad is None, name


@every_term
@some
@given(
    batch=batches, loss_agg=aggregations, junk=st.sampled_from([3.0, -1e4, torch.inf, torch.nan])
)
def test_masked_tokens_change_nothing(term: Term, batch: Batch, loss_agg: str, junk: float) -> None:
    spoilt = batch.map(lambda value: value.masked_fill(batch.mask == 0, junk))
    spoilt = replace(spoilt, mask=batch.mask)
    loss, gradient = value_and_gradient(term, batch, Aggregation(loss_agg))
    spoilt_loss, spoilt_gradient = value_and_gradient(term, spoilt, Aggregation(loss_agg))
    assert torch.equal(loss, spoilt_loss)
    assert torch.equal(gradient, spoilt_gradient)


@every_term
@some
@given(batch=batches, loss_agg=aggregations, seed=st.integers(0, 99))
def test_order_padding_side_and_empty_rows_do_not_matter(
    term: Term, batch: Batch, loss_agg: str, seed: int
) -> None:
    loss, gradient = value_and_gradient(term, batch, Aggregation(loss_agg))
    order = torch.randperm(len(batch.mask), generator=torch.Generator().manual_seed(seed))
    permuted = value_and_gradient(
        term, batch.map(lambda value: value[order]), Aggregation(loss_agg)
    )
    close(permuted[0], loss)
    close(permuted[1], gradient[order])

    def pad(value: Tensor) -> Tensor:
        wide = torch.cat([torch.zeros(len(value), 3, dtype=value.dtype), value], dim=1)
        return torch.cat([wide, torch.zeros_like(wide[:1])])

    padded = value_and_gradient(term, batch.map(pad), Aggregation(loss_agg))
    close(padded[0], loss)
    close(padded[1], pad(gradient))


@every_term
@some
@given(batch=batches, loss_agg=aggregations, size=st.integers(1, 4))
def test_micro_batches_add_up_to_the_batch(
    term: Term, batch: Batch, loss_agg: str, size: int
) -> None:
    loss, gradient = value_and_gradient(term, batch, Aggregation(loss_agg))
    denominator = global_denominator(batch.mask, loss_agg)
    parts = [
        value_and_gradient(
            term,
            batch.map(lambda value, first=first: value[first : first + size]),
            Aggregation(loss_agg, denominator),
        )
        for first in range(0, len(batch.mask), size)
    ]
    close(torch.stack([part[0] for part in parts]).sum(), loss)
    close(torch.cat([part[1] for part in parts]), gradient)


@every_term
@some
@given(batch=batches, loss_agg=aggregations)
def test_packing_all_samples_in_one_row_changes_nothing(
    term: Term, batch: Batch, loss_agg: str
) -> None:
    loss, gradient = value_and_gradient(term, batch, Aggregation(loss_agg))
    inside = batch.mask != 0
    packed = batch.map(lambda value: value[inside].unsqueeze(0))
    sequence = torch.arange(len(inside)).unsqueeze(1).expand(inside.shape)[inside].unsqueeze(0)
    packed_loss, packed_gradient = value_and_gradient(
        term, packed, Aggregation(loss_agg, sequence=sequence)
    )
    close(packed_loss, loss)
    close(packed_gradient[0], gradient[inside])
    denominator = global_denominator(packed.mask, loss_agg, sequence=sequence)
    assert denominator == global_denominator(batch.mask, loss_agg)


@some
@given(batch=batches)
def test_gated_gradient_is_minus_gate_over_tokens(batch: Batch) -> None:
    _, gradient = value_and_gradient(gap_term, batch, beta=5.0)
    gap = batch.teacher - batch.student
    gate = torch.sigmoid(5.0 * gap)
    close(gradient, -gate * batch.mask / batch.mask.sum())
    # The gradient that would flow if the gate were not stopped; the test tells them apart.
    through_the_gate = -(gate + 5.0 * gap * gate * (1 - gate)) * batch.mask / batch.mask.sum()
    assert not torch.allclose(gradient, through_the_gate, rtol=0, atol=1e-9)


@some
@given(batch=batches)
def test_beta_zero_and_no_gate_give_half_everywhere(batch: Batch) -> None:
    for how in ({"beta": 0.0}, {"gate": "none", "beta": 5.0}):
        _, gradient = value_and_gradient(gap_term, batch, **how)
        close(gradient, -batch.mask / (2 * batch.mask.sum()))
        _, statistics = gated(batch, **how)
        assert statistics["gate_mean"] == 0.5
        assert statistics["gate_active_ratio"] == 0


@some
@given(batch=batches)
def test_a_very_sharp_gap_gate_keeps_only_tokens_the_teacher_prefers(batch: Batch) -> None:
    _, gradient = value_and_gradient(gap_term, batch, beta=1e12)
    preferred = (batch.teacher > batch.student).double() * batch.mask
    close(gradient, -preferred / batch.mask.sum())


@some
@given(batch=batches, baseline=st.floats(-1, 2))
def test_a_baseline_is_taken_from_every_gate(batch: Batch, baseline: float) -> None:
    gap = batch.teacher - batch.student
    _, gradient = value_and_gradient(gap_term, batch, baseline=baseline)
    weight = torch.sigmoid(5.0 * gap) - baseline
    close(gradient, -weight * batch.mask / batch.mask.sum())
    _, statistics = gated(batch, baseline=baseline)
    close(statistics["gate_mean"], (weight * batch.mask).sum() / batch.mask.sum())


@some
@given(batch=batches, how=st.sampled_from([{"beta": 0.0}, {"gate": "none"}]))
def test_a_constant_gate_less_its_mean_is_exactly_nothing(batch: Batch, how: dict) -> None:
    loss, gradient = value_and_gradient(gap_term, batch, baseline=0.5, **how)
    assert loss == 0
    assert gradient.eq(0).all()


@some
@given(batch=batches, centre=st.floats(-2, 2), scale=st.floats(0.01, 5))
def test_adaptive_gradient_is_minus_the_rectified_tanh(
    batch: Batch, centre: float, scale: float
) -> None:
    gap = batch.teacher - batch.student
    how = {"gate": "adaptive", "centre": centre, "scale": scale}
    _, gradient = value_and_gradient(gap_term, batch, **how)
    weight = torch.tanh((gap - centre) / scale).clamp(min=0)
    close(gradient, -weight * batch.mask / batch.mask.sum())
    assert (gradient <= 0).all(), "it only ever raises a token"


@some
@given(batch=batches)
def test_a_token_that_is_not_kept_weighs_nothing_and_still_counts(batch: Batch) -> None:
    keep = (batch.advantages >= 0).double()
    _, whole = value_and_gradient(gap_term, batch)
    _, gradient = value_and_gradient(gap_term, batch, keep=keep)
    close(gradient, whole * keep)
    _, of_all = value_and_gradient(gap_term, batch, keep=torch.ones_like(keep))
    assert torch.equal(of_all, whole)
    loss, of_none = value_and_gradient(gap_term, batch, keep=torch.zeros_like(keep))
    assert loss == 0
    assert of_none.eq(0).all()


@some
@given(batch=batches)
def test_divergence_from_an_equal_teacher_is_zero_and_stationary(batch: Batch) -> None:
    logits = batch.student.clone().requires_grad_()
    divergence_S = vocabulary_reverse_kl(logits.log_softmax(-1), batch.student.log_softmax(-1))
    assert divergence_S.abs().max() < 1e-12
    divergence_S.sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-12
    other = vocabulary_reverse_kl(batch.student.log_softmax(-1), batch.teacher.log_softmax(-1))
    assert (other > -1e-12).all()


@some
@given(batch=batches)
def test_reverse_kl_gradient_is_minus_gap(batch: Batch) -> None:
    _, gradient = value_and_gradient(reverse_kl_term, batch)
    gap = batch.teacher - batch.student
    close(gradient, -gap * batch.mask / batch.mask.sum())
    _, statistics = reverse_kl_loss(batch.student, batch.teacher, batch.mask)
    close(statistics["reverse_kl"], -(gap * batch.mask).sum() / batch.mask.sum())


@some
@given(batch=batches)
def test_skill_sd_gradient_is_the_importance_weighted_reverse_kl(batch: Batch) -> None:
    _, gradient = value_and_gradient(skill_sd_term, batch)
    importance = (batch.student - batch.old).exp()
    gap = batch.teacher - batch.student
    close(gradient, -importance * gap * batch.mask / batch.mask.sum())
    on_policy = replace(batch, old=batch.student)
    close(
        value_and_gradient(skill_sd_term, on_policy)[1],
        value_and_gradient(reverse_kl_term, on_policy)[1],
    )


@some
@given(batch=batches)
def test_reverse_kl_gradient_is_that_of_the_divergence(batch: Batch) -> None:
    """Weighted by the policy itself, the sampled gradient is that of the full divergence."""
    logits = batch.student.clone().requires_grad_()
    teacher = batch.teacher.log_softmax(-1)
    student = logits.log_softmax(-1)
    exact = torch.autograd.grad((student.exp() * (student - teacher)).sum(), logits)[0]
    student = logits.log_softmax(-1)
    per_token = reverse_kl_loss(student, teacher, torch.ones_like(student))[0]
    (weight,) = torch.autograd.grad(per_token.sum(), student)
    student = logits.log_softmax(-1)
    sampled = torch.autograd.grad((student.exp().detach() * weight * student).sum(), logits)[0]
    close(sampled, exact)


@some
@given(batch=batches)
def test_on_policy_the_policy_gradient_is_minus_advantage(batch: Batch) -> None:
    batch = replace(batch, old=batch.student)
    _, gradient = value_and_gradient(policy_term, batch)
    close(gradient, -batch.advantages * batch.mask / batch.mask.sum())
    per_sample = replace(batch, advantages=batch.advantages[:, 0])
    close(value_and_gradient(policy_term, per_sample)[1], gradient)


@some
@given(batch=batches, cap=st.sampled_from([0.5, 1.0, 2.0]))
def test_importance_weights_multiply_each_token_of_the_policy_term(
    batch: Batch, cap: float
) -> None:
    # `teacher` stands for the engine. Token by token, clipped and dual-clipped ones among them.
    weights = importance_weights(batch.old, batch.teacher, batch.mask, cap=cap)
    expected = (batch.old - batch.teacher).exp().clamp(max=cap)
    close(weights, torch.where(batch.mask != 0, expected, torch.ones_like(expected)))

    weighted = replace(batch, advantages=batch.advantages * weights)
    _, gradient = value_and_gradient(policy_term, weighted)
    close(gradient, weights * value_and_gradient(policy_term, batch)[1])
    for row, column in batch.mask.nonzero().tolist():
        alone = torch.zeros_like(batch.mask)
        alone[row, column] = 1.0
        ours, theirs = (
            aggregate(policy_term(replace(b, mask=alone)), alone, TOKEN_MEAN)
            for b in (weighted, batch)
        )
        close(ours, weights[row, column] * theirs)


def test_importance_weights_of_an_engine_that_agrees_are_exactly_one() -> None:
    same = torch.tensor([[-0.3, -7.0, -40.0]])
    assert torch.equal(
        importance_weights(same, same, torch.ones_like(same), cap=2.0), torch.ones_like(same)
    )
    far = importance_weights(same, same - 1000.0, torch.ones_like(same), cap=2.0)
    assert torch.equal(far, torch.full_like(same, 2.0)), "and finite where it is far off"


def test_clipping_in_each_direction() -> None:
    ratio = torch.tensor([[1.5, 0.5, 1.5, 0.5, 5.0]], dtype=torch.float64)
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0, -1.0]], dtype=torch.float64)
    current = ratio.log().requires_grad_()
    values, statistics = clipped_policy_loss(
        torch.zeros_like(ratio), current, advantages, torch.ones_like(ratio), **PAPER
    )
    loss = aggregate(values, torch.ones_like(ratio), TOKEN_MEAN)
    loss.backward()
    # Clipped up, not down for a good token; clipped down and at the dual clip for a bad one.
    close(current.grad * 5, torch.tensor([[0.0, -0.5, 1.5, 0.0, 0.0]], dtype=torch.float64))
    close(loss.detach() * 5, torch.tensor(-1.2 - 0.5 + 1.5 + 0.8 + 3.0, dtype=torch.float64))
    assert statistics["clip_fraction"] == pytest.approx(0.4)
    assert statistics["dual_clip_fraction"] == pytest.approx(0.2)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_an_enormous_ratio_gives_a_finite_gradient(advantage: float) -> None:
    current = torch.zeros(1, 1, requires_grad=True)
    loss, _ = clipped_policy_loss(
        torch.full((1, 1), -1000.0),
        current,
        torch.full((1, 1), advantage),
        torch.ones(1, 1),
        **PAPER,
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert current.grad is not None
    assert current.grad.item() == 0


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_estimators_agree_to_second_order_and_vanish_at_equality(estimator: str) -> None:
    reference = torch.tensor([[-1.0, -2.0]], dtype=torch.float64)
    assert reference_kl(reference, reference, estimator=estimator).eq(0).all()
    distance = reference_kl(reference + 1e-3, reference, estimator=estimator)
    expected = 1e-3 if estimator == "k1" else 0.5e-6
    torch.testing.assert_close(distance, torch.full_like(distance, expected), rtol=1e-3, atol=0)


def test_k3_of_a_distant_reference_is_finite() -> None:
    current = torch.tensor([[-900.0, 0.0]], requires_grad=True)
    kl = reference_kl(current, torch.tensor([[0.0, -900.0]]))
    kl.sum().backward()
    assert kl.tolist() == [[10.0, 10.0]]
    assert current.grad is not None
    assert torch.isfinite(current.grad).all()


def test_a_batch_without_response_tokens_is_a_differentiable_zero() -> None:
    for loss_agg in LOSS_AGGREGATIONS:
        student = torch.zeros(2, 3, requires_grad=True)
        mask = torch.zeros(2, 3)
        values, _ = gated_distillation_loss(student, torch.zeros(2, 3), mask, torch.ones(2, 3))
        loss = aggregate(values, mask, Aggregation(loss_agg))
        loss.backward()
        assert loss.item() == 0
        assert student.grad is not None
        assert student.grad.eq(0).all()


def test_unknown_choices_are_refused_by_name() -> None:
    zeros = torch.zeros(1, 2)
    with pytest.raises(SdarError, match="token-mean, seq-mean"):
        aggregate(zeros, zeros, Aggregation("mean", denominator=3))
    with pytest.raises(SdarError, match="k1, k2, k3"):
        reference_kl(zeros, zeros, estimator="k4")
    with pytest.raises(SdarError, match=r"training\.dual_clip"):
        clipped_policy_loss(zeros, zeros, zeros, zeros, **PAPER | {"dual_clip": 1.0})
    with pytest.raises(SdarError, match="gap, entropy, soft_or, none"):
        distillation_weight("wide", zeros, beta=5.0)
    with pytest.raises(SdarError, match="needs the student's entropy"):
        distillation_weight("entropy", zeros, beta=5.0)
