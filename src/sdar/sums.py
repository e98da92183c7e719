"""Sums of floats that have equal bits on every Python."""

from collections.abc import Iterable


def add_in_order(values: Iterable[float]) -> float:
    """Each added to what came before, rounded each time. `sum` did so before Python 3.12, which
    keeps what rounding lost and so may end in another last digit."""
    total = 0.0
    for value in values:
        total += value
    return total
