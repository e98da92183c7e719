"""Rates by data set, and the artefact of averaging batches that they are free of."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from sdar.evaluation.datasets import dataset_rates
from sdar.evaluation.statistics import wilson_interval

SIZES = {
    "nq": 3610,
    "triviaqa": 11313,
    "popqa": 14267,
    "hotpotqa": 7405,
    "2wikimultihopqa": 12576,
    "musique": 2417,
    "bamboogle": 125,
}
BATCH = 512


def episodes(last_won: bool) -> list[dict[str, Any]]:
    """All 51,713 questions in the reference's order; 4 in 10 are won, whatever the set."""
    rng = np.random.default_rng(3)
    rows = [
        {"data_set": name, "task_id": f"{name}/{i}", "success": bool(rng.random() < 0.4)}
        for name, size in SIZES.items()
        for i in range(size)
    ]
    rows[-1]["success"] = last_won
    return rows


def average_of_batches(rows: Sequence[Mapping[str, Any]], batch: int) -> dict[str, float]:
    """The reference's validation: each batch yields a success rate for each data set in it, and
    those are averaged over the batches, unweighted."""
    rates = defaultdict(list)
    for start in range(0, len(rows), batch):
        outcomes = defaultdict(list)
        for row in rows[start : start + batch]:
            outcomes[row["data_set"]].append(float(row["success"]))
        for name, won in outcomes.items():
            rates[name].append(float(np.mean(won)))
    return {name: float(np.mean(of_set)) for name, of_set in rates.items()}


def test_the_last_batch_of_the_reference_holds_one_question() -> None:
    assert sum(SIZES.values()) == 51_713
    assert 51_713 % BATCH == 1


@pytest.mark.parametrize("last_won", [False, True])
def test_averaging_batches_distorts_bamboogle_and_ours_does_not(last_won: bool) -> None:
    rows = episodes(last_won)
    bamboogle = [row["success"] for row in rows[-125:]]
    won_before = sum(bamboogle[:124])

    reference = average_of_batches(rows, BATCH)["bamboogle"]
    ours = dataset_rates(rows, resamples=200)

    assert reference == pytest.approx((won_before / 124 + last_won) / 2, abs=1e-12)
    assert ours.by_set["bamboogle"].rate == pytest.approx((won_before + last_won) / 125, abs=1e-12)
    assert ours.by_set["bamboogle"].tasks == 125
    assert abs(reference - ours.by_set["bamboogle"].rate) > 0.15
    # The published mean of the sets moves by a seventh of that.
    moved = np.mean(list(average_of_batches(rows, BATCH).values())) - ours.mean_of_sets.rate
    assert abs(moved) > 0.15 / 7 - 0.01


def test_ours_depends_on_no_batch_and_no_order() -> None:
    rows = episodes(True)
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    assert dataset_rates(shuffled, resamples=300) == dataset_rates(rows, resamples=300)
    assert average_of_batches(rows, 512) != average_of_batches(rows, 500)


def test_rates_by_hand() -> None:
    rows = [
        *({"data_set": "nq", "success": i < 3} for i in range(4)),
        *({"data_set": "bamboogle", "success": i < 1} for i in range(10)),
    ]
    rates = dataset_rates(rows, order=("nq", "popqa", "bamboogle"))
    assert list(rates.by_set) == ["nq", "bamboogle"]
    assert (rates.by_set["nq"].rate, rates.by_set["nq"].tasks) == (0.75, 4)
    nq = rates.by_set["nq"]
    assert (nq.low, nq.high) == pytest.approx(wilson_interval(3, 4))
    assert rates.overall.rate == pytest.approx(4 / 14)
    assert rates.mean_of_sets.rate == pytest.approx((0.75 + 0.1) / 2)
    assert rates.mean_of_sets.sets == 2
    assert asdict(rates)["by_set"]["nq"]["plays"] == 4


def test_plays_of_one_question_are_one_question() -> None:
    rows = [
        {"data_set": "nq", "task_id": "a", "success": True},
        {"data_set": "nq", "task_id": "a", "success": False},
        {"data_set": "nq", "task_id": "b", "success": True},
        # The same name in another set is another question.
        {"data_set": "popqa", "task_id": "b", "success": False},
    ]
    rates = dataset_rates(rows)
    assert (rates.by_set["nq"].rate, rates.by_set["nq"].tasks) == (0.75, 2)
    assert (rates.overall.rate, rates.overall.tasks) == (pytest.approx(0.5), 3)


def test_the_interval_of_the_mean_is_the_textbook_one() -> None:
    """Independent sets: the variance of the mean is the mean of their variances over 7."""
    rng = np.random.default_rng(1)
    rows = [
        {"data_set": name, "success": bool(rng.random() < 0.3)}
        for name in SIZES
        for _ in range(400)
    ]
    rates = dataset_rates(rows, resamples=20_000)
    variance = sum(r.rate * (1 - r.rate) / 400 for r in rates.by_set.values()) / len(SIZES) ** 2
    half = 1.96 * variance**0.5
    assert rates.mean_of_sets.high - rates.mean_of_sets.rate == pytest.approx(half, rel=0.06)
    assert rates.mean_of_sets.rate - rates.mean_of_sets.low == pytest.approx(half, rel=0.06)


def test_a_small_set_widens_the_mean_more_than_the_overall_rate() -> None:
    rows = [
        *({"data_set": "large", "success": i % 2 == 0} for i in range(5000)),
        *({"data_set": "small", "success": i % 2 == 0} for i in range(50)),
    ]
    rates = dataset_rates(rows)
    overall, mean = rates.overall, rates.mean_of_sets
    assert mean.high - mean.low > 3 * (overall.high - overall.low)


def test_seeds_decide_the_interval_alone() -> None:
    rows = [{"data_set": "a", "success": i % 3 == 0} for i in range(30)]
    first, again = dataset_rates(rows, seed=1), dataset_rates(rows, seed=1)
    other = dataset_rates(rows, seed=2, resamples=99)
    assert first == again
    assert first.mean_of_sets.rate == other.mean_of_sets.rate
    assert first.mean_of_sets != other.mean_of_sets


def test_no_episodes_are_no_rate() -> None:
    with pytest.raises(ValueError, match="no episodes"):
        dataset_rates([])
