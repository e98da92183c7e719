"""The expert: the engine's own solution of a game."""

from collections.abc import Sequence

from sdar.environments.base import Observation


class GoldExpert:
    """Follows the engine's own solution; after a detour it goes on where it left off."""

    def __init__(self, solution: Sequence[str]) -> None:
        # Looking around costs a turn and shows what the first observation showed.
        self._left = [action for action in solution if action != "look around"]

    def act(self) -> tuple[str, str]:
        action = self._left[0] if self._left else "look around"
        return f"next: {action}", action

    def observe(self, action: str, observation: Observation) -> None:
        if self._left and action == self._left[0]:
            self._left.pop(0)
