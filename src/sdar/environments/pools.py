"""A pool for environments so cheap that a process of their own would only cost time."""

from collections.abc import Callable

from sdar.environments.base import Observation, Task, TextEnvironment


class InProcessPool:
    """One environment a slot, made by `make` when the slot is first used."""

    def __init__(self, make: Callable[[], TextEnvironment]) -> None:
        self._make = make
        self._environments: dict[int, TextEnvironment] = {}

    def reset(self, tasks: dict[int, Task]) -> dict[int, Observation]:
        for slot in tasks.keys() - self._environments.keys():
            self._environments[slot] = self._make()
        return {slot: self._environments[slot].reset(task) for slot, task in tasks.items()}

    def step(self, actions: dict[int, str]) -> dict[int, Observation]:
        return {slot: self._environments[slot].step(action) for slot, action in actions.items()}

    def prefetch(self, tasks: list[Task]) -> None:
        """Nothing: there is nothing to load."""

    def close(self) -> None:
        for environment in self._environments.values():
            environment.close()
        self._environments.clear()
