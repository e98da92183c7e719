"""What engines have in common that take requests one by one and answer them step by step."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from sdar.rollout.engines.base import Generation, Key
from sdar.rollout.engines.vllm.probe import Probe


class RequestEngine(ABC):
    """`generate`, `submit` and `advance` over two things that an engine does: ask and step.

    Every prompt of a rollout is offered to the probe, whose own requests are not.
    """

    _probe: Probe

    @abstractmethod
    def _ask(
        self, name: int, ids: list[int], key: Key, max_new_tokens: int, temperature: float
    ) -> None:
        """Put in a request under a name that no unanswered one has."""

    @abstractmethod
    def _step(self) -> list[tuple[int, Generation]]:
        """One step for all requests; what ended, in the order in which it was asked for."""

    def _limit(self, what: str) -> AbstractContextManager[object]:
        """A limit of time on something the engine does, where it has none of its own."""
        return nullcontext()

    def generate(
        self,
        prompt_ids: list[list[int]],
        keys: Sequence[Key],
        *,
        max_new_tokens: int,
        temperature: float,
    ) -> list[Generation]:
        """See `RolloutEngine.generate`."""
        self._probe.remember(prompt_ids)
        with self._limit(f"generating {len(prompt_ids)} responses"):
            return self._generate(prompt_ids, keys, max_new_tokens, temperature)

    def _generate(
        self,
        prompt_ids: list[list[int]],
        keys: Sequence[Key],
        max_new_tokens: int,
        temperature: float,
    ) -> list[Generation]:
        for name, (ids, key) in enumerate(zip(prompt_ids, keys, strict=True)):
            self._ask(name, ids, key, max_new_tokens, temperature)
        found: dict[int, Generation] = {}
        while len(found) < len(prompt_ids):
            found.update(self._step())
        return [found[name] for name in range(len(prompt_ids))]

    def submit(
        self,
        name: int,
        prompt_ids: list[int],
        key: Key,
        *,
        max_new_tokens: int,
        temperature: float,
    ) -> None:
        """See `ContinuousEngine.submit`."""
        self._probe.remember([prompt_ids])
        self._ask(name, prompt_ids, key, max_new_tokens, temperature)

    def advance(self) -> list[tuple[int, Generation]]:
        """See `ContinuousEngine.advance`."""
        with self._limit("a step of generation"):
            return self._step()
