"""Intervals and paired tests for success rates. Pure: arrays in, numbers out.

Two things vary in a comparison of trained policies: the tasks, and the training runs (seeds).
They are crossed, not nested: every run plays every task. So

- a *task* is the unit of the intervals. Several plays of one task (run seeds, evaluation seeds)
  are averaged inside the task first; they are never counted as further tasks.
- `paired_bootstrap` resamples tasks *and*, independently for each method, its runs (the
  two-way or "pigeonhole" bootstrap, Owen 2007, doi:10.1214/07-AOAS122). Of R runs it draws R-1,
  because drawing R would understate the variance between runs by the factor (R-1)/R (half of it,
  at two runs). It errs on the wide side: where runs differ by sampling noise alone, up to three
  times that noise's variance is counted (Owen's bound). With one run per method, runs cannot be
  resampled: the interval is then for these two policies only (`Difference.runs_resampled`).

Array names: T tasks, A runs of method a, B runs of method b, R runs, N resamples.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import lcm, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdar.sums import add_in_order

_CHUNK = 500
"""Resamples held in memory at once."""


@dataclass(frozen=True)
class Rate:
    """A success rate (0..1) with its interval; `tasks` is what the interval counts."""

    rate: float
    low: float
    high: float
    tasks: int
    plays: int


@dataclass(frozen=True)
class Difference:
    """Rate of a minus rate of b (-1..1).

    `low`, `high`: percentile interval over tasks and runs. `low_these_runs`, `high_these_runs`:
    over tasks alone, that is, for exactly these trained policies. `p_value`: two-sided sign-flip
    test over tasks, also for these policies.
    """

    difference: float
    low: float
    high: float
    low_these_runs: float
    high_these_runs: float
    p_value: float
    tasks: int
    runs_a: int
    runs_b: int
    runs_resampled: bool


def wilson_interval(successes: float, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a binomial rate (Wilson 1927; Newcombe 1998, method 3).

    `successes` may be fractional: the sum over tasks of each task's mean over its plays. Then
    `trials` is the number of tasks and the interval is a conservative one, since a mean of plays
    varies less than one play. Raises ValueError for no trials or successes outside 0..trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"expected 0 <= successes <= trials, trials >= 1: {successes}, {trials}")
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, found {confidence}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / trials
    denominator = 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / denominator
    half = z / denominator * sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    # At the borders centre and half are equal in exact arithmetic; keep them so in floats.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high


def rate_over_tasks(outcomes: Mapping[str, Sequence[bool]], confidence: float = 0.95) -> Rate:
    """Mean over tasks of each task's mean over its plays, with a Wilson interval over tasks."""
    if not outcomes:
        raise ValueError("no outcomes: a rate needs at least one task")
    # Plain sums in a fixed order: the same bytes whatever order the plays came in.
    means = [sum(map(bool, outcomes[task])) / len(outcomes[task]) for task in sorted(outcomes)]
    total = min(add_in_order(means), float(len(means)))
    low, high = wilson_interval(total, len(means), confidence)
    plays = sum(len(plays) for plays in outcomes.values())
    return Rate(total / len(means), low, high, len(means), plays)


def rate_by(
    rows: Iterable[Mapping[str, Any]], keys: Sequence[str], confidence: float = 0.95
) -> dict[tuple[Any, ...], Rate]:
    """Rates of groups of episode rows (each with `task_id`, `success`), one group per value of
    `keys`, in sorted order. A task inside a group counts once, however often it was played."""
    groups: dict[tuple[Any, ...], dict[str, list[bool]]] = {}
    for row in rows:
        group = groups.setdefault(tuple(row[key] for key in keys), {})
        group.setdefault(row["task_id"], []).append(bool(row["success"]))
    return {key: rate_over_tasks(groups[key], confidence) for key in sorted(groups)}


def paired_bootstrap(
    a_outcomes: ArrayLike,
    b_outcomes: ArrayLike,
    *,
    seed: int,
    resamples: int = 10_000,
    confidence: float = 0.95,
) -> Difference:
    """Difference of two methods that played the same tasks.

    `a_outcomes` [T, A] and `b_outcomes` [T, B] (or [T] for one run): success of each run on each
    task, 0..1, a run's evaluation seeds averaged before; row t is the same task in both. The
    result is a function of the arguments alone (`seed` seeds a generator of its own).
    Raises ValueError when the rows do not match.
    """
    a_TA, b_TB = _as_table(a_outcomes), _as_table(b_outcomes)
    if len(a_TA) != len(b_TB):
        raise ValueError(f"not paired: {len(a_TA)} tasks against {len(b_TB)}")
    tasks, runs_a, runs_b = len(a_TA), a_TA.shape[1], b_TB.shape[1]
    difference_T = a_TA.mean(axis=1) - b_TB.mean(axis=1)
    # A stream of their own for the tasks: exact antisymmetry in a and b where runs are not drawn.
    task_rng, run_rng = np.random.default_rng(seed).spawn(2)
    both, tasks_only = [], []
    for start in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - start)
        weight_NT = task_rng.multinomial(tasks, np.full(tasks, 1 / tasks), size=count) / tasks
        tasks_only.append(weight_NT @ difference_T)
        a_NA, b_NB = weight_NT @ a_TA, weight_NT @ b_TB
        weight_NA = _run_weights(run_rng, count, runs_a)
        weight_NB = _run_weights(run_rng, count, runs_b)
        both.append((a_NA * weight_NA).sum(axis=1) - (b_NB * weight_NB).sum(axis=1))
    low, high = percentiles(np.concatenate(both), confidence)
    low_tasks, high_tasks = percentiles(np.concatenate(tasks_only), confidence)
    return Difference(
        difference=float(difference_T.mean()),
        low=low,
        high=high,
        low_these_runs=low_tasks,
        high_these_runs=high_tasks,
        p_value=sign_flip_p_value(difference_T, denominator=lcm(runs_a, runs_b)),
        tasks=tasks,
        runs_a=runs_a,
        runs_b=runs_b,
        runs_resampled=runs_a > 1 or runs_b > 1,
    )


def percentiles(resampled: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """The ends of the percentile interval of resamples `[N]`."""
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _as_table(outcomes: ArrayLike) -> NDArray[np.float64]:
    table = np.asarray(outcomes, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or table.size == 0:
        raise ValueError(f"expected outcomes [tasks] or [tasks, runs], found shape {table.shape}")
    return table


def _run_weights(rng: np.random.Generator, count: int, runs: int) -> NDArray[np.float64]:
    drawn = max(1, runs - 1)
    return rng.multinomial(drawn, np.full(runs, 1 / runs), size=count) / drawn


def sign_flip_p_value(differences: ArrayLike, denominator: int = 1) -> float:
    """Two-sided permutation p-value that the mean paired difference is 0 (Fisher 1935).

    Under the null hypothesis each task's difference is as likely with the other sign; the p-value
    is the share of the 2^T sign patterns whose sum is at least as far from 0 as the observed one.
    Exact, by convolution: the differences must be multiples of 1/`denominator` up to rounding
    (rates over 2 runs: 2); where they are not, they are rounded to 1/1000ths.
    With differences in {-1, 0, 1} this is McNemar's exact test.
    """
    values = np.asarray(differences, dtype=np.float64)
    scaled = values * denominator
    if np.abs(scaled - np.round(scaled)).max(initial=0.0) > 1e-9:
        scaled = values * 1000
    steps = np.abs(np.round(scaled)).astype(np.int64)
    observed = abs(int(np.round(scaled).sum()))
    steps = steps[steps > 0]
    if len(steps) == 0:
        return 1.0
    total = int(steps.sum())
    probability = np.zeros(2 * total + 1)
    probability[total] = 1.0
    for step in steps:
        # np.roll never wraps mass around: what is reachable stays within +-total.
        probability = 0.5 * (np.roll(probability, step) + np.roll(probability, -step))
    tail = probability[total + observed :].sum()
    return float(min(1.0, tail + probability[: total - observed + 1].sum() if observed else 1.0))


@dataclass(frozen=True)
class Mean:
    """A mean over tasks with a percentile interval; `tasks` is what the interval counts."""

    mean: float
    low: float
    high: float
    tasks: int


def mean_over_tasks(
    values: Mapping[str, Sequence[float]],
    *,
    seed: int = 0,
    resamples: int = 10_000,
    confidence: float = 0.95,
) -> Mean:
    """The mean of a measure with a bootstrap interval over tasks; a task's plays are averaged
    first. `values` has the plays of each task. Raises ValueError without any task."""
    if not values:
        raise ValueError("no tasks: a mean needs at least one")
    means_T = np.asarray([float(np.mean(values[task])) for task in sorted(values)])
    rng = np.random.default_rng(seed)
    resampled: list[NDArray[np.float64]] = []
    for start in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - start)
        drawn = rng.integers(means_T.size, size=(count, means_T.size))
        resampled.append(means_T[drawn].mean(axis=1))
    low, high = percentiles(np.concatenate(resampled), confidence)
    mean = float(means_T.mean())
    return Mean(mean, min(low, mean), max(high, mean), means_T.size)
