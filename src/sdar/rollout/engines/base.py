"""What the collector asks of an engine, and the random numbers all engines share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Key = tuple[int, int, int, int]
"""(run seed, step, slot, turn): all that a response's randomness depends on. Training counts steps
from 0; other uses of the same seed (evaluation, relabelling) take negative steps."""


@dataclass(frozen=True)
class Generation:
    """One response. `token_ids` ends with an end-of-response token unless it was cut short;
    `log_probs` are nats at temperature 1, whatever the sampling temperature."""

    token_ids: list[int]
    log_probs: list[float]


class RolloutEngine(Protocol):
    """Samples one response a prompt."""

    def generate(
        self,
        prompt_ids: list[list[int]],
        keys: Sequence[Key],
        *,
        max_new_tokens: int,
        temperature: float,
    ) -> list[Generation]:
        """Responses in the order of the prompts; each depends on its prompt and key alone (up to
        rounding), not on what else is in the batch. Temperature 0 is greedy."""
        ...


def uniforms(keys: Sequence[Key], count: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), `[len(keys), count]`: row i is a function of keys[i] alone.

    Counter-based (Philox): seed and step are the generator's key, slot and turn the upper half of
    its counter, the token's place in the response the lower half, so streams never meet.
    """
    word = (1 << 64) - 1
    rows = np.empty((len(keys), count))
    for row, (seed, step, slot, turn) in enumerate(keys):
        bits = np.random.Philox(
            key=np.array([seed & word, step & word], dtype=np.uint64),
            counter=np.array([0, 0, slot & word, turn & word], dtype=np.uint64),
        )
        rows[row] = np.random.Generator(bits).random(count)
    return rows
