"""What the collector needs of an engine, and the random numbers all engines share."""

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Key = tuple[int, int, int, int]
"""(run seed, step, slot, turn): all that a response's randomness depends on. Training counts steps
from 0; other uses of the same seed (evaluation, demonstrations) have negative steps."""


@dataclass(frozen=True)
class Generation:
    """One response. `token_ids` ends with an end-of-response token unless it was cut short;
    `log_probs` are nats at temperature 1, whatever the sampling temperature."""

    token_ids: list[int]
    log_probs: list[float]


class RolloutEngine(Protocol):
    """Samples one response per prompt."""

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


class ContinuousEngine(RolloutEngine, Protocol):
    """Samples many responses at once, which begin and end at any time."""

    def submit(
        self,
        name: int,
        prompt_ids: list[int],
        key: Key,
        *,
        max_new_tokens: int,
        temperature: float,
    ) -> None:
        """Ask for a response; `name` comes back with it."""
        ...

    def advance(self) -> list[tuple[int, Generation]]:
        """One step: every response gets a token, but for those that wait to join the others.
        Returns those that ended in it, in the order of their requests; what a sequence of calls
        returns is a function of the calls alone."""
        ...

    def close(self) -> None:
        """Release what the engine holds beside the model: processes, memory, connections."""
        ...


@runtime_checkable
class Sleeper(Protocol):
    """An engine that holds memory between two rollouts."""

    def sleep(self) -> None:
        """Give memory back until it is needed again; may do nothing."""
        ...


@runtime_checkable
class RemoteWeights(Protocol):
    """An engine with weights of its own, which the trainer has to send."""

    def take_weights(self, named: "Iterable[tuple[str, Tensor]]", step: int) -> None:
        """Compute with these from now on: all names of the model's state, tied ones included."""
        ...

    def sleep(self) -> None:
        """Give memory back until the next `wake`; may do nothing."""
        ...

    def wake(self) -> None: ...


@runtime_checkable
class ScoringEngine(Protocol):
    """An engine that can score responses as well (`training.distillation.scored_by: engine`)."""

    def score(
        self, prompt_ids: list[list[int]], response_ids: list[list[int]]
    ) -> list[list[float]]:
        """Log-probs (nats, temperature 1) of each response token after its prompt."""
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


def seed_of(key: Key) -> int:
    """A seed of 63 bits for engines that draw their own random numbers, a function of `key` alone
    (the first bytes of its BLAKE2b digest)."""
    digest = hashlib.blake2b(struct.pack("<4q", *key), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
