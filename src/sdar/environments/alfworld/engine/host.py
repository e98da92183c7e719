"""Many ALFWorld episodes in one process: what both pools are made of."""

from collections.abc import Callable, Mapping, Sequence

from sdar.environments.alfworld.engine.environment import AlfworldEnvironment, GameCache
from sdar.environments.alfworld.engine.textworld_api import fast_engine_applies
from sdar.environments.base import Observation, Task
from sdar.errors import SdarError


class Host:
    """Steps the episodes of its slots, one environment per slot, kept for the next episode."""

    def __init__(self, played: Callable[[], None] = lambda: None) -> None:
        """`played` is called after each action and each start of a game."""
        self._played = played
        self._games = GameCache()
        self._environments: dict[int, AlfworldEnvironment] = {}

    def reset(self, tasks: Mapping[int, Task]) -> dict[int, Observation]:
        observations = {}
        for slot, task in tasks.items():
            if slot not in self._environments:
                self._environments[slot] = AlfworldEnvironment(self._games)
            observations[slot] = self._environments[slot].reset(task)
            self._played()
        return observations

    def step(self, actions: Mapping[int, str]) -> dict[int, Observation]:
        observations = {}
        for slot, action in actions.items():
            observations[slot] = self._environments[slot].step(action)
            self._played()
        return observations

    def replay(self, episodes: Mapping[int, tuple[Task, Sequence[str]]]) -> dict[int, Observation]:
        """Bring slots to where another process had them: the task, and the actions so far."""
        observations = self.reset({slot: task for slot, (task, _) in episodes.items()})
        for slot, (_, actions) in episodes.items():
            for action in actions:
                observations |= self.step({slot: action})
        return observations

    def load(self, task: Task) -> None:
        """Load a game ahead of its use. A bad file is reported when it is played, not here."""
        if fast_engine_applies():
            try:
                self._games.get(task.location)
            except SdarError:
                return

    def close(self) -> None:
        for environment in self._environments.values():
            environment.close()
        self._environments.clear()


def check_slots(slots: Sequence[int], known: Mapping[int, object] | set[int]) -> None:
    """Refuse a step of a slot that was never reset."""
    for slot in slots:
        if slot not in known:
            raise ValueError(f"slot {slot} was stepped before its first reset")
