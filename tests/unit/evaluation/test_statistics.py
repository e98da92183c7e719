"""Intervals and paired tests against published values, closed forms and simulation."""

from math import comb

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sdar.evaluation.statistics import (
    Mean,
    mean_over_tasks,
    paired_bootstrap,
    rate_by,
    rate_over_tasks,
    sign_flip_p_value,
    wilson_interval,
)


# Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17
# (1998), table I, method 3 (Wilson score without continuity correction), 95%.
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_matches_newcombe(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_symmetric_and_closed_at_the_borders() -> None:
    low, high = wilson_interval(3, 17)
    assert wilson_interval(14, 17) == pytest.approx((1 - high, 1 - low))
    assert wilson_interval(0, 9)[0] == 0.0
    assert wilson_interval(9, 9)[1] == 1.0


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_the_impossible(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, trials)


def test_wilson_covers_close_to_its_confidence() -> None:
    # Exact coverage by summing the binomial, so no simulation noise: averaged over rates it is
    # close to .95 (Agresti & Coull 1998); the Wald interval would average .87 at n = 20.
    trials, coverages = 20, []
    intervals = [wilson_interval(k, trials) for k in range(trials + 1)]
    for rate in np.linspace(0.025, 0.975, 39):
        probabilities = [
            comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(trials + 1)
        ]
        coverages.append(
            sum(p for p, (lo, hi) in zip(probabilities, intervals, strict=True) if lo <= rate <= hi)
        )
    assert 0.94 < np.mean(coverages) < 0.965
    assert min(coverages) > 0.82


def test_a_task_counts_once_however_often_it_is_played() -> None:
    once = rate_over_tasks({f"t{i}": [i < 30] for i in range(100)})
    often = rate_over_tasks({f"t{i}": [i < 30] * 5 for i in range(100)})
    assert (often.rate, often.low, often.high) == (once.rate, once.low, once.high)
    assert (often.tasks, often.plays) == (100, 500)


def test_tasks_weigh_the_same_whatever_their_number_of_plays() -> None:
    assert rate_over_tasks({"a": [True], "b": [False, False, False]}).rate == 0.5


def test_rate_by_groups_and_sorts() -> None:
    rows = [
        {"panel": panel, "task_id": task, "success": success}
        for panel, task, success in [("y", "1", True), ("x", "1", False), ("y", "2", False)]
    ]
    rates = rate_by(rows, ["panel"])
    assert list(rates) == [("x",), ("y",)]
    assert rates[("y",)].rate == 0.5
    assert rates[("x",)].tasks == 1


def test_bootstrap_of_one_run_has_the_known_standard_error() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random(400) < 0.6, rng.random(400) < 0.4
    result = paired_bootstrap(a, b, seed=1)
    standard_error = (a.astype(float) - b).std() / np.sqrt(400)
    assert result.high - result.low == pytest.approx(2 * 1.96 * standard_error, rel=0.06)
    assert result.difference == pytest.approx(a.mean() - b.mean())
    assert not result.runs_resampled


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 40), st.integers(1, 3), st.integers(1, 3))
@example(seed=259963, tasks=2, runs_a=3, runs_b=3)
def test_bootstrap_is_antisymmetric(seed: int, tasks: int, runs_a: int, runs_b: int) -> None:
    rng = np.random.default_rng(seed)
    a = (rng.random((tasks, runs_a)) < 0.6).astype(float)
    b = (rng.random((tasks, runs_b)) < 0.5).astype(float)
    forward = paired_bootstrap(a, b, seed=0)
    backward, wider, narrower = (
        paired_bootstrap(b, a, seed=0, confidence=level) for level in (0.95, 0.975, 0.925)
    )
    assert forward.difference == pytest.approx(-backward.difference)
    assert forward.p_value == pytest.approx(backward.p_value)
    # Tasks alone: the same resamples, mirrored exactly. With runs: other draws, equal in law. Of
    # few tasks the differences are few and far apart, so ends are compared by rank and not by size:
    # the 2.5% of 10,000 draws lie between the 1.25% and the 3.75% of 10,000 others.
    assert forward.low_these_runs == pytest.approx(-backward.high_these_runs)
    assert -wider.high - 1e-12 <= forward.low <= -narrower.high + 1e-12
    assert -narrower.low - 1e-12 <= forward.high <= -wider.low + 1e-12
    assert forward.low_these_runs - 1e-12 <= forward.difference <= forward.high_these_runs + 1e-12


def test_bootstrap_depends_on_its_seed_alone() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((50, 2)).round(), rng.random((50, 2)).round()
    np.random.seed(1)
    first = paired_bootstrap(a, b, seed=5)
    np.random.seed(2)
    assert paired_bootstrap(a, b, seed=5) == first
    assert paired_bootstrap(a, b, seed=6) != first


def test_copies_of_a_run_do_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(7)
    a, b = (rng.random(80) < 0.6).astype(float), (rng.random(80) < 0.5).astype(float)
    one = paired_bootstrap(a, b, seed=0)
    four = paired_bootstrap(np.tile(a[:, None], 4), np.tile(b[:, None], 4), seed=0)
    assert four.high - four.low == pytest.approx(one.high - one.low, rel=0.05)


def test_runs_that_disagree_widen_the_interval() -> None:
    tasks = 400
    a = np.zeros((tasks, 2))
    a[:, 0] = np.arange(tasks) % 10 < 8  # one run at 80%, the other at 40%
    a[:, 1] = np.arange(tasks) % 10 < 4
    b = np.zeros((tasks, 2))
    b[: tasks // 2] = 1
    result = paired_bootstrap(a, b, seed=0)
    assert result.high - result.low > 2 * (result.high_these_runs - result.low_these_runs)


@pytest.mark.slow
def test_runs_contribute_their_unbiased_variance() -> None:
    # Every task alike, so only runs vary: the bootstrap variance must be s^2 / R (unbiased s^2).
    runs = np.array([0.2, 0.5, 0.6])
    a = np.tile(runs, (5, 1))
    b = np.zeros((5, 1))
    draws = [paired_bootstrap(a, b, seed=s, resamples=1, confidence=0.5).low for s in range(3000)]
    assert np.var(draws) == pytest.approx(runs.var(ddof=1) / 3, rel=0.1)


@pytest.mark.parametrize(("runs", "floor"), [(1, 0.91), (3, 0.88)])
def test_bootstrap_covers_the_true_difference(runs: int, floor: float) -> None:
    # True difference .1; tasks differ in difficulty; with several runs each run has its own level.
    rng = np.random.default_rng(11)
    spread = 0.0 if runs == 1 else 0.05
    covered = 0
    trials = 200
    for trial in range(trials):
        difficulty_T1 = rng.uniform(0.2, 0.7, size=(100, 1))
        a = rng.random((100, runs)) < difficulty_T1 + 0.1 + spread * rng.standard_normal(runs)
        b = rng.random((100, runs)) < difficulty_T1 + spread * rng.standard_normal(runs)
        result = paired_bootstrap(a, b, seed=trial, resamples=400)
        covered += result.low <= 0.1 <= result.high
    assert covered / trials >= floor


def test_bootstrap_refuses_unpaired_tasks() -> None:
    with pytest.raises(ValueError, match="not paired"):
        paired_bootstrap([1, 0, 1], [1, 0], seed=0)


@pytest.mark.parametrize(("wins", "losses"), [(8, 2), (1, 0), (0, 5), (7, 7), (60, 40)])
def test_sign_flip_is_mcnemars_exact_test(wins: int, losses: int) -> None:
    n, k = wins + losses, min(wins, losses)
    expected = min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n)
    differences = [1] * wins + [-1] * losses + [0] * 13
    assert sign_flip_p_value(differences) == pytest.approx(expected)


def test_sign_flip_equals_enumeration() -> None:
    rng = np.random.default_rng(5)
    differences = rng.integers(-2, 3, size=10) / 2
    signs = np.array(np.meshgrid(*[[-1, 1]] * 10)).reshape(10, -1)
    sums = np.abs(differences @ signs)
    expected = (sums >= abs(differences.sum()) - 1e-9).mean()
    assert sign_flip_p_value(differences, denominator=2) == pytest.approx(expected)


def test_sign_flip_of_no_difference_is_one() -> None:
    assert sign_flip_p_value([0, 0, 0]) == 1.0
    assert sign_flip_p_value([1, -1]) == 1.0


def test_a_mean_over_tasks_counts_tasks_not_plays() -> None:
    values = {f"t{i}": [float(i % 5) / 4] * (1 + i % 3) for i in range(200)}
    mean = mean_over_tasks(values)
    assert mean.mean == pytest.approx(0.5)
    assert mean.tasks == 200
    # Standard error .0250: the interval is close to two of them on each side.
    assert mean.high - mean.low == pytest.approx(4 * 0.025, rel=0.1)
    repeated = {task: plays * 3 for task, plays in values.items()}
    assert mean_over_tasks(repeated) == mean
    assert mean_over_tasks(dict(reversed(values.items()))) == mean


def test_a_mean_over_equal_tasks_has_no_width() -> None:
    assert mean_over_tasks({"a": [1.0], "b": [1.0]}) == Mean(1.0, 1.0, 1.0, 2)
    with pytest.raises(ValueError, match="no tasks"):
        mean_over_tasks({})
