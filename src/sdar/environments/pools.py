"""Pools for environments so cheap that a process of their own would only cost time."""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from sdar.environments.base import Observation, Task, TextEnvironment

T = TypeVar("T")


def in_thread(call: Callable[[], T]) -> Future[T]:
    """Start `call` in a thread of its own; nobody waits for it at the end of the process."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # it is raised where the result is read
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


class SentActions:
    """Actions between `send` and `receive` of a pool that takes them when it is asked for answers
    (see `base.EnvironmentPool`)."""

    def __init__(self) -> None:
        self._sent: dict[int, str] = {}

    def put(self, actions: dict[int, str]) -> None:
        for slot, action in actions.items():
            if slot in self._sent:
                raise ValueError(f"slot {slot} was sent an action before its last was answered")
            self._sent[slot] = action

    def take(self, slots: Sequence[int]) -> dict[int, str]:
        for slot in slots:
            if slot not in self._sent:
                raise ValueError(f"slot {slot} was asked for an answer, but was sent no action")
        return {slot: self._sent.pop(slot) for slot in slots}

    def drop(self, slots: Iterable[int]) -> None:
        """These start again."""
        for slot in slots:
            self._sent.pop(slot, None)


class InProcessPool:
    """One environment per slot, made by `make` when the slot is first used."""

    def __init__(self, make: Callable[[], TextEnvironment]) -> None:
        self._sent = SentActions()
        self._make = make
        self._environments: dict[int, TextEnvironment] = {}

    def reset(self, tasks: dict[int, Task]) -> dict[int, Observation]:
        self._sent.drop(tasks)
        for slot in tasks.keys() - self._environments.keys():
            self._environments[slot] = self._make()
        return {slot: self._environments[slot].reset(task) for slot, task in tasks.items()}

    def step(self, actions: dict[int, str]) -> dict[int, Observation]:
        return {slot: self._environments[slot].step(action) for slot, action in actions.items()}

    def send(self, actions: dict[int, str]) -> None:
        self._sent.put(actions)

    def receive(self, slots: Sequence[int]) -> dict[int, Observation]:
        return self.step(self._sent.take(slots))

    def prefetch(self, tasks: list[Task]) -> None:
        """Nothing: there is nothing to load."""

    def close(self) -> None:
        for environment in self._environments.values():
            environment.close()
        self._environments.clear()
