"""What a run reports does not depend on the Python it ran on."""

from sdar.evaluation.statistics import rate_over_tasks
from sdar.sums import add_in_order
from sdar.training.measures import _mean


def test_every_addition_is_rounded() -> None:
    tenths = [0.1] * 10
    assert add_in_order(tenths) == 0.9999999999999999  # `sum` from Python 3.12 on: 1.0
    assert add_in_order(iter([])) == 0.0
    assert add_in_order([1e16, 1.0, -1e16]) == 0.0


def test_means_of_training_and_of_evaluation_are_such_sums() -> None:
    assert _mean([0.1] * 10) == 0.9999999999999999 / 10
    outcomes = {f"task {i}": [True] + 9 * [False] for i in range(10)}
    assert rate_over_tasks(outcomes).rate == 0.9999999999999999 / 10
