"""ALFWorld's own scenes, constants, goals, domain and grammar, read from the installed wheel.

Nothing of alfworld is imported as a package: importing it creates a data folder in the user's home
and changes the environment. The two Python tables are executed from their files instead.
"""

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType

from sdar.errors import SdarError

ROOM_NUMBERS: Mapping[str, range] = {
    "kitchen": range(1, 31),
    "livingroom": range(201, 231),
    "bedroom": range(301, 331),
    "bathroom": range(401, 431),
}
UNSEEN_SCENES = {"kitchen": 10, "livingroom": 219, "bedroom": 308, "bathroom": 424}
"""Scenes of valid_unseen; no other split uses them."""

# Fixed furniture that a scene lists as present but without a position.
UNPLACED_RECEPTACLES = {
    "GarbageCan": 1,
    "StoveBurner": 4,
    "Toaster": 1,
    "CoffeeMachine": 1,
    "ToiletPaperHanger": 1,
    "HandTowelHolder": 2,
    "TowelHolder": 1,
}

Location = tuple[int, int, int, int]
"""x and z in quarter metres, rotation in quarter turns, horizon in degrees."""


@dataclass(frozen=True)
class Receptacle:
    """A piece of furniture: AI2-THOR's id, its class, and where the agent stands to reach it."""

    id: str
    kind: str
    location: Location


@dataclass(frozen=True)
class Scene:
    """One AI2-THOR room: its furniture and the classes of everything in it."""

    number: int
    room: str
    receptacles: tuple[Receptacle, ...]
    classes: frozenset[str]

    @cached_property
    def receptacle_kinds(self) -> frozenset[str]:
        return frozenset(receptacle.kind for receptacle in self.receptacles)


@cache
def wheel() -> Path:
    """Folder of the installed alfworld package."""
    spec = importlib.util.find_spec("alfworld")
    if spec is None or not spec.submodule_search_locations:
        raise SdarError(
            "alfworld is not installed, and games are made from its scenes: "
            "install the extra with `pip install 'sdar[alfworld]'`"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _module(relative: str) -> ModuleType:
    path = wheel() / relative
    spec = importlib.util.spec_from_file_location(f"sdar_alfworld_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def constants() -> ModuleType:
    """alfworld.gen.constants: which class holds what, what can be heated, opened, ..."""
    return _module("gen/constants.py")


@cache
def goals() -> Mapping[str, Mapping[str, object]]:
    """alfworld.gen.goal_library.gdict: the PDDL goal and sentence templates of each task type."""
    return _module("gen/goal_library.py").gdict


@cache
def domain_text() -> str:
    return (wheel() / "data" / "alfred.pddl").read_text(encoding="utf-8")


@cache
def grammar_text() -> str:
    return (wheel() / "data" / "alfred.twl2").read_text(encoding="utf-8")


@cache
def holds() -> Mapping[str, frozenset[str]]:
    """Receptacle class -> object classes it may contain (unsliced)."""
    return {
        receptacle: frozenset(kind for kind in kinds if not kind.endswith("Sliced"))
        for receptacle, kinds in constants().VAL_RECEPTACLE_OBJECTS.items()
    }


@cache
def properties() -> Mapping[str, frozenset[str]]:
    """PDDL property -> classes that have it."""
    actions = constants().VAL_ACTION_OBJECTS
    table = {
        "cleanable": actions["Cleanable"],
        "heatable": actions["Heatable"],
        "coolable": actions["Coolable"],
        "sliceable": actions["Sliceable"],
        "toggleable": actions["Toggleable"],
        "isReceptacleObject": constants().MOVABLE_RECEPTACLES_SET,
        "openable": constants().OPENABLE_CLASS_SET,
    }
    return {name: frozenset(kinds) for name, kinds in table.items()}


@cache
def pickupable() -> frozenset[str]:
    """Object classes that some fixed receptacle may contain: what an agent can carry about."""
    fixed = set(holds()) - properties()["isReceptacleObject"]
    return frozenset(kind for receptacle in fixed for kind in holds()[receptacle])


def room_of(number: int) -> str:
    return next(room for room, numbers in ROOM_NUMBERS.items() if number in numbers)


def coordinate(value: float) -> str:
    """A coordinate as AI2-THOR writes it in ids: sign, two digits, two decimals."""
    return f"{value:+06.2f}"


def receptacle_kind(id_: str) -> str:
    """Class of a receptacle id: a basin is named after what it belongs to.

    The ending alone does not tell: some scenes list "Bathtub|...|SinkBasin".
    """
    kind = id_.split("|", 1)[0]
    return f"{kind}Basin" if id_.endswith("Basin") else kind


@cache
def scene(number: int) -> Scene:
    """Read one scene; furniture that has no position in the wheel gets one beyond the others."""
    folder = wheel() / "gen" / "layouts"
    positions = json.loads(
        (folder / f"FloorPlan{number}-openable.json").read_text(encoding="utf-8")
    )
    classes = frozenset(
        json.loads((folder / f"FloorPlan{number}-objects.json").read_text(encoding="utf-8"))
    )
    receptacles = []
    for id_, (x, z, rotation, horizon) in sorted(positions.items()):
        location = (round(4 * x), round(4 * z), round(rotation / 90) % 4, round(horizon))
        receptacles.append(Receptacle(id_, receptacle_kind(id_), location))
    present = {receptacle.kind for receptacle in receptacles}
    right = max(receptacle.location[0] for receptacle in receptacles)
    for kind, count in UNPLACED_RECEPTACLES.items():
        if kind not in classes or kind in present:
            continue
        for _ in range(count):
            right += 2
            id_ = f"{kind}|{coordinate(right / 4)}|{coordinate(0.9)}|{coordinate(0.25)}"
            receptacles.append(Receptacle(id_, kind, (right, 0, 1, 30)))
    return Scene(number, room_of(number), tuple(receptacles), classes)


def scene_numbers(room: str, split: str) -> list[int]:
    """Scenes a split may use: the held-out one for valid_unseen, all others otherwise."""
    if split == "valid_unseen":
        return [UNSEEN_SCENES[room]]
    return [number for number in ROOM_NUMBERS[room] if number != UNSEEN_SCENES[room]]
