"""What engines share that take requests one by one and answer them step by step."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from sdar.rollout.engines.base import Generation, Key
from sdar.rollout.engines.vllm.probe import Probe


class RequestEngine(ABC):
    """`generate`, `submit` and `advance` by an engine's `_ask` and `_step`. The probe sees all
    prompts but its own."""

    _probe: Probe

    @abstractmethod
    def _ask(
        self, name: int, ids: list[int], key: Key, max_new_tokens: int, temperature: float
    ) -> None:
        """Make a request under a name that no unanswered one has."""

    @abstractmethod
    def _step(self) -> list[tuple[int, Generation]]:
        """One step for all requests; returns what ended, in the order of the requests."""

    def _limit(self, what: str) -> AbstractContextManager[object]:
        """A time limit on `what` the engine does, for engines without one of their own."""
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
        responses: dict[int, Generation] = {}
        while len(responses) < len(prompt_ids):
            responses.update(self._step())
        return [responses[name] for name in range(len(prompt_ids))]

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
