"""What each term does on average and how noisily: the simulation against exact sums.

Every mean is an average of independent steps, so its distance from the exact value in standard
errors is standard normal. With a dozen logits a distance beyond `CHANCE` happens once in some ten
thousand seeds; a wrong formula is off by hundreds (see the test of the test's own power).
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from estimator_world import (
    SoftmaxWorld,
    best_baseline,
    centred_term,
    expected_update,
    full_reverse_kl_term,
    full_reverse_kl_updates,
    gated_term,
    mean_and_error,
    mean_gate,
    random_world,
    reverse_kl_term,
    sampled_updates,
    simulate,
    squared_deviations,
    update_variance,
)
from torch import Tensor

from sdar.algorithms.gates import gap_gate

TOKENS, STEPS, CHANCE = 32, 6000, 4.5
WORLDS = [random_world(seed) for seed in range(3)]
every_world = pytest.mark.parametrize("world", WORLDS, ids=["world 0", "world 1", "world 2"])


def run(world: SoftmaxWorld, term: Callable[..., Tensor], tokens: int = TOKENS) -> Tensor:
    return simulate(world, term, tokens=tokens, steps=STEPS, seed=7)


def distance(values: Tensor, expected: Tensor | float) -> float:
    """Largest distance from the expected mean, in standard errors."""
    mean, error = mean_and_error(values)
    return float(((mean - expected) / error).abs().max())


def gap_gates(world: SoftmaxWorld) -> Tensor:
    return gap_gate(world.gap_KV, beta=5.0)


@every_world
def test_a_constant_gate_moves_nothing_on_average(world: SoftmaxWorld) -> None:
    half = torch.full_like(world.gap_KV, 0.5)
    assert expected_update(world, sampled_updates(world, half)).abs().max() < 1e-15
    updates = run(world, gated_term(gate="none"))
    assert distance(updates, 0.0) < CHANCE
    # No single step is still: the term is noise, not nothing.
    assert updates.abs().sum(dim=(1, 2)).min() > 0
    assert update_variance(world, sampled_updates(world, half)) > 0.01


@every_world
def test_the_gap_gate_is_a_policy_gradient_with_the_gate_as_reward(world: SoftmaxWorld) -> None:
    logits = world.student_logits_KV.clone().requires_grad_()
    reward = gap_gates(world)
    expected_reward = (world.visits_K[:, None] * logits.softmax(-1) * reward).sum()
    (ascent,) = torch.autograd.grad(expected_reward, logits)
    enumerated = expected_update(world, sampled_updates(world, reward))
    torch.testing.assert_close(enumerated, ascent, rtol=0, atol=1e-15)
    updates = run(world, gated_term())
    assert distance(updates, ascent) < CHANCE
    assert distance(updates, 0.0) > 50, "the test would notice a term without effect"


@every_world
def test_a_known_baseline_leaves_the_mean(world: SoftmaxWorld) -> None:
    gate = gap_gates(world)
    expected = expected_update(world, sampled_updates(world, gate))
    for baseline in (mean_gate(world, gate), 0.9):
        shifted = expected_update(world, sampled_updates(world, gate - baseline))
        torch.testing.assert_close(shifted, expected, rtol=0, atol=1e-15)
        assert distance(run(world, gated_term(baseline=baseline)), expected) < CHANCE


@every_world
def test_a_steps_own_mean_scales_the_mean_by_one_token_less(world: SoftmaxWorld) -> None:
    """A token's own gate is in its step's mean, so a share of 1/N of its weight cancels."""
    expected = expected_update(world, sampled_updates(world, gap_gates(world)))
    for tokens in (4, TOKENS):
        updates = run(world, centred_term(), tokens)
        assert distance(updates, expected * (1 - 1 / tokens)) < CHANCE
    few = run(world, centred_term(), 4)
    assert distance(few, expected) > 10, "the test can tell the two apart"


@every_world
def test_centring_lowers_the_variance(world: SoftmaxWorld) -> None:
    plain, centred = (
        squared_deviations(run(world, term), TOKENS) for term in (gated_term(), centred_term())
    )
    mean, error = mean_and_error(plain - centred)
    assert mean / error > 10, "on the same tokens"
    gate = gap_gates(world)
    assert distance(plain, update_variance(world, sampled_updates(world, gate))) < CHANCE


@every_world
def test_the_variance_is_a_parabola_with_its_lowest_point_at_the_score_weighted_mean(
    world: SoftmaxWorld,
) -> None:
    gate = gap_gates(world)

    def variance(baseline: float) -> float:
        return update_variance(world, sampled_updates(world, gate - baseline))

    best, mean = best_baseline(world, gate), mean_gate(world, gate)
    score = float(
        (world.chance_KV * sampled_updates(world, torch.ones_like(gate)).square().sum(-1)).sum()
    )
    for baseline in (0.0, 0.3, mean, 1.0):
        expected = variance(best) + score * (baseline - best) ** 2
        assert variance(baseline) == pytest.approx(expected, rel=1e-12)
    assert variance(best) < variance(mean) < variance(0.0)
    assert abs(mean - best) > 0.01, "the mean is not the best constant"


def test_the_mean_is_no_safe_baseline() -> None:
    """Where wide open gates stand on tokens that hardly move a logit, centring adds variance."""
    # A state that is nearly certain and gets a wide gate, one that is unsure and gets none.
    student = torch.tensor([[8.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    gate = torch.tensor([[0.99, 0.99], [0.02, 0.01]], dtype=torch.float64)
    world = SoftmaxWorld(student, student, torch.tensor([0.8, 0.2], dtype=torch.float64))
    mean, best = mean_gate(world, gate), best_baseline(world, gate)
    assert mean > 2 * best
    plain, centred = (
        update_variance(world, sampled_updates(world, gate - baseline)) for baseline in (0.0, mean)
    )
    assert centred > plain


@every_world
def test_both_reverse_kls_descend_the_divergence_and_the_full_one_is_quieter(
    world: SoftmaxWorld,
) -> None:
    logits = world.student_logits_KV.clone().requires_grad_()
    student = logits.log_softmax(-1)
    divergence_K = (student.exp() * (student - world.teacher_KV)).sum(-1)
    (ascent,) = torch.autograd.grad((world.visits_K * divergence_K).sum(), logits)
    sampled, full = sampled_updates(world, world.gap_KV), full_reverse_kl_updates(world)
    for updates in (sampled, full):
        torch.testing.assert_close(expected_update(world, updates), -ascent, rtol=0, atol=1e-15)
    of_sampled, of_full = run(world, reverse_kl_term), run(world, full_reverse_kl_term)
    assert distance(of_sampled, -ascent) < CHANCE
    assert distance(of_full, -ascent) < CHANCE
    for updates_BKV, exact in ((of_sampled, sampled), (of_full, full)):
        deviations = squared_deviations(updates_BKV, TOKENS)
        assert distance(deviations, update_variance(world, exact)) < CHANCE
    assert update_variance(world, full) < update_variance(world, sampled)


def test_equal_seeds_give_equal_updates() -> None:
    one, same = (run(WORLDS[0], gated_term()) for _ in range(2))
    assert torch.equal(one, same)
    other = simulate(WORLDS[0], gated_term(), tokens=TOKENS, steps=STEPS, seed=8)
    assert not torch.equal(one, other)


def test_the_page_states_the_enumerated_numbers(repository: Path) -> None:
    world = random_world(0)
    gate = gap_gates(world)
    page = (repository / "docs" / "methods.md").read_text(encoding="utf-8")
    mean, best = mean_gate(world, gate), best_baseline(world, gate)
    none, centred, least = (
        update_variance(world, sampled_updates(world, gate - baseline))
        for baseline in (0.0, mean, best)
    )
    for variance in (none, centred, least):
        assert f"{variance:.3f}".lstrip("0") in page
    assert f"{(none - centred) / (none - least):.0%}".replace("%", " %") in page
    for value in (mean, best):
        assert f"{value:.2f}".lstrip("0") in page
