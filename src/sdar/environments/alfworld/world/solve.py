"""A solution read off a game's facts: sees everything, searches nothing."""

from sdar.environments.alfworld.world import scenes, vocabulary
from sdar.environments.alfworld.world.abstract import Game, Item, names_of
from sdar.environments.alfworld.world.scenes import Receptacle
from sdar.errors import SdarError

VERBS = {
    "pick_clean_then_place_in_recep": "clean",
    "pick_heat_then_place_in_recep": "heat",
    "pick_cool_then_place_in_recep": "cool",
}


def solve(game: Game) -> list[str]:
    """Actions that win the game: go, open if closed, take, (clean, heat, cool), go, open, move.

    Raises SdarError when the facts hold no solution (no target, no goal, no appliance, no lamp).
    """
    return _Script(game).actions()


class _Script:
    """Writes the actions down while keeping track of where the agent stands and what is open."""

    def __init__(self, game: Game) -> None:
        self.game = game
        self.names = names_of(game)
        self.by_id = {receptacle.id: receptacle for receptacle in game.receptacles}
        self.closed = {r.id for r in game.receptacles if r.kind in scenes.properties()["openable"]}
        self.location: scenes.Location | None = None
        self.out: list[str] = []

    def actions(self) -> list[str]:
        game = self.game
        targets = [
            item
            for item in game.items
            if item.kind == game.target
            and item.host is not None
            and (not game.goal or self.by_id[item.host].kind != game.goal)
        ]
        # Open hosts first, then by name: short and the same in every process.
        targets.sort(key=lambda item: (item.host in self.closed, self.names[item.id]))
        wanted = 2 if game.task_type == "pick_two_obj_and_place" else 1
        if len(targets) < wanted:
            raise SdarError(f"{game.id}: {len(targets)} {game.target} to take, {wanted} needed")
        if game.task_type == "look_at_obj_in_light":
            self._take(targets[0])
            lamp = self._one([item for item in game.items if item.kind == "DeskLamp"], "lamp")
            assert lamp.host is not None
            self._go(self.by_id[lamp.host])
            self.out.append(f"use {self.names[lamp.id]}")
            return self.out
        goal = self._receptacle(game.goal)
        for item in targets[:wanted]:
            self._take(item)
            verb = VERBS.get(game.task_type)
            if verb is not None:
                appliance = self._receptacle(vocabulary.APPLIANCE[game.task_type])
                self._go(appliance)
                self.out.append(f"{verb} {self.names[item.id]} with {self.names[appliance.id]}")
            self._go(goal)
            self._open(goal)
            self.out.append(f"move {self.names[item.id]} to {self.names[goal.id]}")
        return self.out

    def _one(self, things: list[Item], what: str) -> Item:
        if not things:
            raise SdarError(f"{self.game.id}: the game has no {what}")
        return things[0]

    def _receptacle(self, kind: str) -> Receptacle:
        for receptacle in self.game.receptacles:
            if receptacle.kind == kind:
                return receptacle
        raise SdarError(f"{self.game.id}: the game has no {kind}")

    def _go(self, receptacle: Receptacle) -> None:
        # Two pieces of furniture may be reached from one place; going there again is no action.
        if self.location != receptacle.location:
            self.out.append(f"go to {self.names[receptacle.id]}")
            self.location = receptacle.location

    def _open(self, receptacle: Receptacle) -> None:
        if receptacle.id in self.closed:
            self.out.append(f"open {self.names[receptacle.id]}")
            self.closed.discard(receptacle.id)

    def _take(self, item: Item) -> None:
        assert item.host is not None
        host = self.by_id[item.host]
        self._go(host)
        self._open(host)
        self.out.append(f"take {self.names[item.id]} from {self.names[host.id]}")
