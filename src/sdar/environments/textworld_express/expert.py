"""The expert: the engine's own solution of a game."""

from collections.abc import Sequence

from sdar.environments.base import Observation

LOOK = "look around"


class GoldExpert:
    """Follows the engine's own solution; after a detour it goes on where it left off.

    It says the next action that is on offer, and leaves out what is not: the engine opens what is
    open already. With nothing of it on offer it looks around. `first` is what the episode began
    with.
    """

    def __init__(self, solution: Sequence[str], first: Observation) -> None:
        # Looking around costs a turn and shows what the first observation showed.
        self._left = [action for action in solution if action != LOOK]
        self._offered = first.admissible_actions

    def act(self) -> tuple[str, str]:
        place = self._next()
        action = LOOK if place is None else self._left[place]
        if self._offered and action not in self._offered:
            action = self._offered[0]
        return f"next: {action}", action

    def observe(self, action: str, observation: Observation) -> None:
        place = self._next()
        if place is not None and action == self._left[place]:
            del self._left[: place + 1]
        self._offered = observation.admissible_actions

    def _next(self) -> int | None:
        """Where in the solution it goes on."""
        return next((n for n, said in enumerate(self._left) if said in self._offered), None)
