"""Intervals of what is measured on recorded tokens: bootstrap over tasks. Pure.

Tokens of a turn, turns of an episode and plays of a task hang together, so whole tasks (of timings:
whole steps) are drawn, and every estimate is a ratio of sums over what was drawn.

Array names: U units (tasks or steps), N resamples, T turns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdar.evaluation.statistics import wilson_interval

RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval over `units`. One unit has no interval: both ends are the
    value."""

    value: float
    low: float
    high: float
    units: int


@dataclass(frozen=True)
class Proportion:
    """`count` of `total` with Wilson's 95% interval; without any, the interval is all of 0..1."""

    count: int
    total: int
    rate: float | None
    low: float
    high: float


def proportion(outcomes: Sequence[bool]) -> Proportion:
    """How many of the outcomes are true."""
    count, total = sum(map(bool, outcomes)), len(outcomes)
    if not total:
        return Proportion(0, 0, None, 0.0, 1.0)
    return Proportion(count, total, count / total, *wilson_interval(count, total))


def unit_weights(units: int, seed: int = 0) -> NDArray[np.float64]:
    """`[N, U]`: how often each resample draws each unit; a function of the arguments alone."""
    rng = np.random.default_rng([seed, units])
    return rng.multinomial(units, np.full(units, 1 / units), size=RESAMPLES).astype(np.float64)


def ratio(numerator_U: ArrayLike, denominator_U: ArrayLike) -> Estimate:
    """Sum over units of the numerators by that of the denominators. Resamples without any
    denominator are left out. Raises ValueError when all denominators are 0."""
    above_U = np.asarray(numerator_U, dtype=np.float64)
    below_U = np.asarray(denominator_U, dtype=np.float64)
    if below_U.sum() <= 0:
        raise ValueError("a ratio needs a positive denominator")
    weight_NU = unit_weights(len(below_U))
    above_N, below_N = weight_NU @ above_U, weight_NU @ below_U
    drawn_N = above_N[below_N > 0] / below_N[below_N > 0]
    return estimate(float(above_U.sum() / below_U.sum()), drawn_N, len(below_U))


def difference_of_ratios(
    a_U: tuple[ArrayLike, ArrayLike], b_U: tuple[ArrayLike, ArrayLike]
) -> Estimate:
    """Ratio a minus ratio b, each (numerators, denominators) by unit; unit u is the same task in
    both, so the two are drawn together."""
    arrays = [np.asarray(values, dtype=np.float64) for pair in (a_U, b_U) for values in pair]
    if len({len(values) for values in arrays}) != 1:
        raise ValueError("not paired: the two ratios have different units")
    weight_NU = unit_weights(len(arrays[0]))
    above_a, below_a, above_b, below_b = (weight_NU @ values for values in arrays)
    there = (below_a > 0) & (below_b > 0)
    drawn_N = above_a[there] / below_a[there] - above_b[there] / below_b[there]
    sums = [values.sum() for values in arrays]
    return estimate(float(sums[0] / sums[1] - sums[2] / sums[3]), drawn_N, len(arrays[0]))


def ranking_quality(
    scores_T: ArrayLike, right_T: ArrayLike, unit_T: Sequence[str]
) -> Estimate | None:
    """AUC: how often a turn that is right scores higher than one that is not (ties count half).

    `unit_T` names each turn's task. None when all turns are right, or none is.
    """
    scores = np.asarray(scores_T, dtype=np.float64)
    order = np.argsort(scores, kind="stable")
    right = np.asarray(right_T, dtype=np.float64)[order]
    if not 0 < right.sum() < len(right):
        return None
    _, starts = np.unique(scores[order], return_index=True)
    names, unit = np.unique(np.asarray(unit_T)[order], return_inverse=True)

    def auc(weight_NT: NDArray[np.float64]) -> NDArray[np.float64]:
        good_NG = np.add.reduceat(weight_NT * right, starts, axis=1)
        bad_NG = np.add.reduceat(weight_NT * (1 - right), starts, axis=1)
        below_NG = bad_NG.cumsum(axis=1) - bad_NG / 2
        pairs_N = good_NG.sum(axis=1) * bad_NG.sum(axis=1)
        won_N = (good_NG * below_NG).sum(axis=1)
        return won_N[pairs_N > 0] / pairs_N[pairs_N > 0]

    drawn_N = auc(unit_weights(len(names))[:, unit])
    return estimate(float(auc(np.ones((1, len(right))))[0]), drawn_N, len(names))


def estimate(value: float, drawn_N: NDArray[np.float64], units: int) -> Estimate:
    """A value with the percentile interval of its resamples."""
    if units < 2 or len(drawn_N) == 0:
        return Estimate(value, value, value, units)
    low, high = np.quantile(drawn_N, (0.025, 0.975))
    return Estimate(value, float(low), float(high), units)
