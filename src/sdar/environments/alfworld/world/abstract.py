"""A game as plain facts, before any file or engine: furniture, objects, task.

`Game` is what the generator makes, what `pddl.py` writes down for the engine and what the simulator
plays. Names of things in the text ("fridge 1") follow from the ids exactly as the engine's.
"""

from collections import Counter
from dataclasses import dataclass

from sdar.environments.alfworld.world.scenes import Location, Receptacle


@dataclass(frozen=True)
class Item:
    """An object: its id, its class and the id of the receptacle it starts in.

    `host` is None for things that lie in no receptacle (a window, a light switch).
    """

    id: str
    kind: str
    host: str | None


@dataclass(frozen=True)
class Game:
    """One game. `goal` is a receptacle class, empty for look_at_obj_in_light."""

    split: str
    index: int
    task_type: str
    target: str
    goal: str
    scene: int
    trial: str
    sentence: str
    """The instruction as the engine says it, without "Your task is to: ", with its full stop."""
    receptacles: tuple[Receptacle, ...]
    items: tuple[Item, ...]
    start: Location
    loose: tuple[tuple[str, Location], ...] = ()
    """Where the items without a host stand: (id, location)."""

    @property
    def id(self) -> str:
        """The game's folder relative to `json_2.1.1`, in ALFWorld's own layout."""
        last = self.goal or "DeskLamp"
        combination = f"{self.task_type}-{self.target}-None-{last}-{self.scene}"
        return f"{self.split}/{combination}/{self.trial}"

    @property
    def combination(self) -> tuple[str, str, str, int]:
        return self.task_type, self.target, self.goal, self.scene


def mangle(id_: str) -> str:
    """An id as PDDL spells it."""
    for sign, word in (("|", "_bar_"), ("+", "_plus_"), ("-", "_minus_"), (".", "_dot_")):
        id_ = id_.replace(sign, word)
    return id_.replace(",", "_comma_")


def engine_names(ids: list[str]) -> dict[str, str]:
    """Id -> name in the text. Numbers run downward over the sorted lower-case PDDL names."""
    ordered = sorted(ids, key=lambda id_: mangle(id_).lower())
    stems = {}
    for id_ in ordered:
        stem = id_.split("|", 1)[0].lower()
        stems[id_] = stem + "basin" if "basin" in id_.lower() else stem
    left = Counter(stems.values())
    names = {}
    for id_ in ordered:
        names[id_] = f"{stems[id_]} {left[stems[id_]]}"
        left[stems[id_]] -= 1
    return names


def names_of(game: Game) -> dict[str, str]:
    """Names of all receptacles and items of a game, in the engine's order (by PDDL name)."""
    things = [receptacle.id for receptacle in game.receptacles]
    return engine_names(things + [item.id for item in game.items])
