"""Success by data set, over all questions, and as the mean of the sets. Pure.

Every question counts once, whatever batch it was played in. (The reference averages the success of
validation batches, unweighted: of 51,713 questions in batches of 512 the last batch holds one, and
that question decides half of Bamboogle's rate.)

Two summaries answer two questions: the rate over all questions is what a user of this mixture sees,
and large sets decide it; the mean of the sets, which papers report, counts 125 questions of
Bamboogle as much as 14,267 of PopQA, so its interval is a bootstrap of its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdar.evaluation.statistics import Rate, percentiles, rate_over_tasks
from sdar.sums import add_in_order


@dataclass(frozen=True)
class MeanOfSets:
    """Unweighted mean of the data sets' rates (0..1), with a percentile interval."""

    rate: float
    low: float
    high: float
    sets: int


@dataclass(frozen=True)
class DatasetRates:
    """`by_set` in the order asked for; `overall` over all questions."""

    by_set: dict[str, Rate]
    overall: Rate
    mean_of_sets: MeanOfSets


def dataset_rates(
    rows: Iterable[Mapping[str, Any]],
    *,
    order: Sequence[str] = (),
    seed: int = 0,
    resamples: int = 10_000,
    confidence: float = 0.95,
) -> DatasetRates:
    """Rates of a table of episodes with the columns `data_set` and `success` (0..1 or bool).

    Rows with the same `task_id` (where there is that column) are plays of one question, which
    counts once. `order` puts these sets first; the others follow by name. The result does not
    depend on the order of the rows. Raises ValueError for a table without rows.
    """
    plays: dict[str, dict[str, list[bool]]] = {}
    for number, row in enumerate(rows):
        task = str(row["task_id"]) if "task_id" in row else f"row {number}"
        plays.setdefault(str(row["data_set"]), {}).setdefault(task, []).append(bool(row["success"]))
    if not plays:
        raise ValueError("no episodes: rates need at least one")
    names = [*(name for name in order if name in plays), *sorted(set(plays) - set(order))]
    by_set = {name: rate_over_tasks(plays[name], confidence) for name in names}
    everything = {f"{name}\0{task}": won for name in names for task, won in plays[name].items()}
    means = {
        name: np.asarray([sum(won) / len(won) for won in plays[name].values()]) for name in names
    }
    low, high = percentiles(_bootstrap(means, seed, resamples), confidence)
    rate = add_in_order(one.rate for one in by_set.values()) / len(by_set)
    return DatasetRates(
        by_set,
        rate_over_tasks(everything, confidence),
        MeanOfSets(rate, min(low, rate), max(high, rate), len(by_set)),
    )


def _bootstrap(
    means: Mapping[str, NDArray[np.float64]], seed: int, resamples: int
) -> NDArray[np.float64]:
    """Questions are drawn again inside each set; the sets are those that were chosen, not a sample.

    A set's questions differ in their outcome alone, so drawing how often each outcome occurs is
    the same bootstrap, and fast.
    """
    total_N = np.zeros(resamples)
    for name in sorted(means):
        # A stream for each set: another set more or less changes no draw of this one.
        rng = np.random.default_rng([seed, *name.encode()])
        values, counts = np.unique(means[name], return_counts=True)
        drawn = rng.multinomial(counts.sum(), counts / counts.sum(), size=resamples)
        total_N += drawn @ values / counts.sum()
    return total_N / len(means)
