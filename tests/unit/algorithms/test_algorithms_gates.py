"""Gates, and what is measured of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdar.algorithms.gates import (
    QUANTILES,
    compute_gate,
    gate_by_position,
    gate_statistics,
    teacher_gap,
)
from sdar.methods.gates import RUN_GATES

some = settings(max_examples=40, deadline=None)


def test_published_values_of_the_gap_gate() -> None:
    gate = compute_gate("gap", torch.tensor([0.0, 0.5, -0.5]), beta=5.0)
    assert gate.tolist() == pytest.approx([0.5, 0.924, 0.076], abs=5e-4)


def test_entropy_and_soft_or_gates() -> None:
    gap, entropy = torch.tensor([0.5, -1.0]), torch.tensor([0.2, 0.0])
    entropy_gate = compute_gate("entropy", gap, beta=2.0, entropy=entropy)
    torch.testing.assert_close(entropy_gate, torch.sigmoid(torch.tensor([0.4, 0.0])))
    soft_or = compute_gate("soft_or", gap, beta=2.0, entropy=entropy)
    torch.testing.assert_close(soft_or, torch.sigmoid(torch.tensor([1.2, -2.0])))


@some
@given(
    gaps=st.lists(st.floats(-30, 30), min_size=1, max_size=9),
    kind=st.sampled_from(RUN_GATES),
    beta=st.floats(0, 10),
)
def test_a_gate_is_a_weight_without_gradient(gaps: list[float], kind: str, beta: float) -> None:
    gap = torch.tensor(gaps, dtype=torch.float64, requires_grad=True)
    entropy = (gap.detach().abs() / 10).requires_grad_()
    gate = compute_gate(kind, gap, beta=beta, entropy=entropy)
    assert not gate.requires_grad
    assert gate.shape == gap.shape
    assert ((gate >= 0) & (gate <= 1)).all()
    assert compute_gate(kind, gap, beta=0.0, entropy=entropy).eq(0.5).all()


def test_the_gap_carries_no_gradient() -> None:
    student, teacher = torch.zeros(2, requires_grad=True), torch.ones(2, requires_grad=True)
    gap = teacher_gap(student, teacher)
    assert gap.tolist() == [1.0, 1.0]
    assert not gap.requires_grad


@some
@given(seed=st.integers(0, 2**31), tokens=st.integers(2, 60))
def test_statistics_of_a_step_equal_those_of_its_tokens(seed: int, tokens: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gap = torch.randn(3, tokens, generator=generator)
    mask = torch.rand(3, tokens, generator=generator) < 0.7
    mask[0, :2] = True
    gate = compute_gate("gap", gap, beta=5.0)
    failed = torch.tensor([[True], [False], [True]])
    result = gate_statistics(
        gate.masked_fill(~mask, torch.nan), gap, mask, parts={"failed": failed}
    )
    inside = gate[mask].double()
    assert result["tokens"] == inside.numel()
    assert result["gate_mean"] == pytest.approx(inside.mean().item())
    for q in QUANTILES:
        expected = torch.quantile(inside, q).item()
        assert result[f"gate_q{round(100 * q):02d}"] == pytest.approx(expected, abs=1e-12)
    assert result["gate_active_ratio"] == pytest.approx((inside > 0.5).double().mean().item())
    assert result["teacher_gap_mean"] == pytest.approx(gap[mask].double().mean().item())
    assert result["teacher_gap_std"] == pytest.approx(gap[mask].double().std().item())
    on_failed = gate[mask & failed].double().sum()
    assert result["gate_mass_failed"] == pytest.approx((on_failed / inside.sum()).item())
    # Packed into one row, the figures are the same.
    packed = gate_statistics(
        gate[mask],
        gap[mask],
        torch.ones(inside.numel()),
        parts={"failed": failed.expand(3, tokens)[mask]},
    )
    assert packed == pytest.approx(result)


def test_statistics_of_one_and_of_no_token_are_finite() -> None:
    one = gate_statistics(torch.tensor([0.7]), torch.tensor([0.2]), torch.tensor([1.0]))
    assert one["teacher_gap_std"] == 0
    assert one["gate_q05"] == one["gate_q95"] == pytest.approx(0.7)
    nothing = torch.zeros(1)
    assert gate_statistics(nothing, nothing, nothing) == {"tokens": 0.0}


def test_gate_by_position_counts_response_tokens_whatever_the_padding() -> None:
    gate = torch.tensor([[0.1, 0.2, 0.3, 9.0], [9.0, 0.5, 0.6, 9.0]])
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 0]])
    result = gate_by_position(gate, mask, edges=(0, 1, 2, 8))
    assert result == pytest.approx({0: 0.3, 1: 0.4, 2: 0.3})
    position = torch.tensor([0, 1, 2, 0, 1])
    packed = gate_by_position(gate[mask != 0], torch.ones(5), edges=(0, 1, 2, 8), position=position)
    assert packed == pytest.approx(result)
