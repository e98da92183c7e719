"""A home and its habits: where each class of object is usually kept.

The habits are the privileged knowledge of the default experiment: games are furnished by them,
the skill tells them, the student's prompt does not. A home is a function of (seed, size, habit);
different seeds give independent homes.
"""

import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from sdar.environments.alfworld.world import real_rooms, scenes, vocabulary
from sdar.errors import SdarError

Size = Literal["small", "full"]
Usual = Mapping[str, Mapping[str, str]]

_TASK_PROPERTY = {
    "pick_clean_then_place_in_recep": "cleanable",
    "pick_heat_then_place_in_recep": "heatable",
    "pick_cool_then_place_in_recep": "coolable",
}


@dataclass(frozen=True)
class Home:
    """`usual[room][object class]` is a receptacle class, kept to with probability `habit`."""

    seed: int
    size: Size
    habit: float
    usual: Usual

    @classmethod
    def draw(cls, seed: int, habit: float = 0.85, size: Size = "small") -> "Home":
        usual: dict[str, dict[str, str]] = {}
        for room in scenes.ROOM_NUMBERS:
            rng = random.Random(f"home/{size}/{seed}/{room}")
            kinds = _object_classes(room, size)
            rng.shuffle(kinds)
            used: Counter[str] = Counter()
            usual[room] = {}
            for kind in kinds:
                options = _options(kind, room, size)
                if not options:
                    continue
                if size == "full":
                    weights = [real_rooms.share(room, place) for place in options]
                    usual[room][kind] = rng.choices(options, weights)[0]
                    continue
                # Spread the classes over the furniture: a home that keeps all in one place
                # would have nothing to tell.
                fewest = min(used[place] for place in options)
                place = rng.choice([place for place in options if used[place] == fewest])
                used[place] += 1
                usual[room][kind] = place
        return cls(seed, size, habit, usual)

    def usual_places(self, task_type: str) -> dict[str, tuple[str, ...]]:
        """Object class -> usual receptacle classes, for what this task type can ask for.

        Names are lower-case, as the engine writes them. Small games have one place per class; in
        full-size ones a class may be kept in another place in another room.
        """
        places: dict[str, list[str]] = {}
        for room, kinds in _askable(task_type, self.size).items():
            for kind in kinds:
                place = self.usual.get(room, {}).get(kind)
                if place is not None and place.lower() not in places.setdefault(kind.lower(), []):
                    places[kind.lower()].append(place.lower())
        return {kind: tuple(names) for kind, names in sorted(places.items())}

    def habits_text(self, task_type: str) -> str:
        """The line of a skill that tells the usual places."""
        told = [
            f"{kind}: {' or '.join(places)}"
            for kind, places in self.usual_places(task_type).items()
        ]
        return f"Usual places are {'; '.join(told)}."

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Home":
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            return cls(fields["seed"], fields["size"], fields["habit"], fields["usual"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SdarError(
                f"{path} is not a readable home ({error!r}): delete the tasks folder and run "
                "`sdar tasks` again"
            ) from error


def askable_objects(task_type: str) -> dict[str, list[str]]:
    """Room -> object classes a task type may ask for by alfworld's own tables, sorted."""
    wanted = _TASK_PROPERTY.get(task_type)
    pool = scenes.pickupable() & scenes.properties()[wanted] if wanted else scenes.pickupable()
    valid = {name.lower() for name in scenes.constants().GOALS_VALID[task_type]}
    return {
        room: sorted(kind for kind in pool if kind in _classes_of(room))
        for room in scenes.ROOM_NUMBERS
        if room in valid
    }


def _options(kind: str, room: str, size: Size) -> list[str]:
    """Receptacle classes that may be an object class's usual place in a room."""
    if kind == "DeskLamp":
        return list(vocabulary.LAMP_HOSTS if size == "small" else real_rooms.LAMP_HOSTS[:3])
    places = vocabulary.USUAL[room] if size == "small" else real_rooms.FURNITURE[room]
    return [place for place in places if kind in scenes.holds().get(place, ())]


def _object_classes(room: str, size: Size) -> list[str]:
    if size == "small":
        lamp = ("DeskLamp",) if room == "bedroom" else ()
        return sorted((*vocabulary.room_objects(room), *lamp))
    return sorted((scenes.pickupable() | {"DeskLamp"}) & _classes_of(room))


def _askable(task_type: str, size: Size) -> dict[str, list[str]]:
    """Room -> object classes the task type can ask for (with the lamp, where one is needed)."""
    if task_type not in vocabulary.TASK_OBJECTS:
        known = ", ".join(vocabulary.TASK_OBJECTS)
        raise SdarError(f"unknown ALFWorld task type '{task_type}': it is one of {known}")
    if size == "small":
        rooms = {room: list(kinds) for room, kinds in vocabulary.TASK_OBJECTS[task_type].items()}
    else:
        rooms = askable_objects(task_type)
    if task_type == "look_at_obj_in_light":
        for kinds in rooms.values():
            kinds.append("DeskLamp")
    return rooms


@cache
def _classes_of(room: str) -> frozenset[str]:
    """Classes found in the room's scenes, those of valid_unseen aside."""
    numbers = scenes.scene_numbers(room, "train")
    return frozenset().union(*(scenes.scene(number).classes for number in numbers))
