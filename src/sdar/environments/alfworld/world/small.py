"""Small games: thinned rooms, few words, so that prompts stay short and the engine cheap.

A room keeps 6-8 pieces of furniture (always the ones the task needs, a third to a half openable)
and 4-9 objects, kept where the home's habits say with probability `habit`.
"""

import random
from collections import Counter
from functools import cache

from sdar.environments.alfworld.world import scenes, vocabulary
from sdar.environments.alfworld.world.abstract import Game, Item
from sdar.environments.alfworld.world.home import Home
from sdar.environments.alfworld.world.scenes import Receptacle, Scene

RECEPTACLES = (7, 8)
FEWEST_RECEPTACLES = 6
"""In scenes that have no more to offer; smaller ones are not used."""
OBJECTS = (5, 9)
MOST_OF_A_KIND = 2
TWO_COPIES = 0.35
"""Probability of a second copy of the target, where the task needs one only."""
OPENABLE = (1 / 3, 1 / 2)

Combination = tuple[str, str, str, int]
"""Task type, object class, goal receptacle class ('' for look), scene."""


def combinations(task_type: str, home: Home, split: str) -> list[Combination]:
    """Every combination of object, goal and scene this home allows in small games, sorted."""
    possible = []
    for room, kinds in vocabulary.TASK_OBJECTS[task_type].items():
        numbers = _roomy_scenes(room, split)
        for kind in kinds:
            needed = {home.usual[room][kind], *_needed(task_type, room, home)}
            # Never the usual place, where a target starts, nor the appliance it is treated at.
            hosts = [goal for goal in _hosts(room, kind) if goal not in needed]
            for number in numbers:
                there = scenes.scene(number).receptacle_kinds
                if not needed <= there:
                    continue
                if task_type == "look_at_obj_in_light":
                    possible.append((task_type, kind, "", number))
                    continue
                possible += [(task_type, kind, goal, number) for goal in hosts if goal in there]
    return sorted(possible)


def pick_evenly(pool: list[Combination], rng: random.Random) -> Combination:
    """One combination: object first, then goal, then scene, each evenly among those left.

    So common furniture does not crowd out rare.
    """
    for position in (1, 2, 3):
        value = rng.choice(sorted({combination[position] for combination in pool}))
        pool = [combination for combination in pool if combination[position] == value]
    return pool[0]


def furnish(combination: Combination, home: Home, split: str, index: int, trial: str) -> Game:
    """Make the game of a combination; a function of its arguments alone."""
    task_type, target, goal, number = combination
    scene = scenes.scene(number)
    rng = random.Random(f"small/{trial}")
    room = scene.room
    usual = home.usual[room]
    needed = [usual[target], *([goal] if goal else []), *_needed(task_type, room, home)]
    receptacles = _thin(scene, needed, rng)
    kinds = _objects(task_type, target, room, rng)
    ids: set[str] = set()
    items = []
    for kind in kinds:
        barred = goal if kind == target else ""
        host = _host(kind, receptacles, usual.get(kind, ""), home.habit, barred, rng)
        if host is not None:
            items.append(Item(fresh_id(kind, host.location, ids, rng), kind, host.id))
    taken = {receptacle.location for receptacle in receptacles}
    start = next(
        place
        for x in range(60)
        if (place := (x, rng.randrange(8), rng.randrange(4), 30)) not in taken
    )
    return Game(
        *(split, index, *combination, trial),
        sentence=say(task_type, target, goal, rng),
        receptacles=tuple(sorted(receptacles, key=lambda receptacle: receptacle.id)),
        items=tuple(sorted(items, key=lambda item: item.id)),
        start=start,
    )


def say(task_type: str, target: str, goal: str, rng: random.Random) -> str:
    """The task in one of ALFWorld's own sentences, with its full stop."""
    templates = scenes.goals()[task_type]["templates"]
    assert isinstance(templates, list)
    sentence = rng.choice(templates)
    return f"{sentence.format(obj=target.lower(), recep=goal.lower(), toggle='desklamp')}."


@cache
def _roomy_scenes(room: str, split: str) -> list[int]:
    """The scenes a split may use that have furniture enough."""
    numbers = scenes.scene_numbers(room, split)
    return [n for n in numbers if _capacity(scenes.scene(n)) >= FEWEST_RECEPTACLES]


@cache
def _hosts(room: str, kind: str) -> list[str]:
    """The room's furniture that may contain an object class."""
    return [place for place in vocabulary.FURNITURE[room] if kind in scenes.holds()[place]]


def _capacity(scene: Scene) -> int:
    """Pieces of furniture a thinned room could keep with no more than half of them openable."""
    counts = Counter(
        r.kind for r in scene.receptacles if r.kind in vocabulary.FURNITURE[scene.room]
    )
    openable = scenes.properties()["openable"]
    plain = sum(min(MOST_OF_A_KIND, n) for kind, n in counts.items() if kind not in openable)
    opening = sum(min(MOST_OF_A_KIND, n) for kind, n in counts.items() if kind in openable)
    return plain + min(plain, opening)


def _needed(task_type: str, room: str, home: Home) -> list[str]:
    """Receptacle classes the task needs besides the goal and the target's usual place."""
    if task_type == "look_at_obj_in_light":
        return [home.usual[room]["DeskLamp"]]
    appliance = vocabulary.APPLIANCE.get(task_type)
    return [appliance] if appliance else []


def _thin(scene: Scene, needed: list[str], rng: random.Random) -> list[Receptacle]:
    """Choose the furniture that stays: the needed classes first, then a draw, openables limited."""
    menu = {
        kind: [r for r in scene.receptacles if r.kind == kind]
        for kind in vocabulary.FURNITURE[scene.room]
    }
    chosen: list[Receptacle] = []

    def take(kind: str) -> None:
        left = [r for r in menu[kind] if r not in chosen]
        chosen.append(rng.choice(left))

    for kind in dict.fromkeys(needed):
        take(kind)
    size = rng.randint(*RECEPTACLES)
    openable = scenes.properties()["openable"]
    while len(chosen) < size:
        counts = Counter(r.kind for r in chosen)
        opening = sum(r.kind in openable for r in chosen)
        options = [
            kind
            for kind, all_of_it in menu.items()
            if counts[kind] < min(MOST_OF_A_KIND, len(all_of_it))
            and not (kind in openable and opening + 1 > OPENABLE[1] * size)
        ]
        # Kept rooms are at least a third openable where the scene has enough to open.
        wanted = [kind for kind in options if kind in openable]
        if wanted and opening < OPENABLE[0] * size:
            options = wanted
        if not options:
            break
        new = [kind for kind in options if not counts[kind]]
        take(rng.choice(new if new and rng.random() < 0.7 else options))
    return _apart(chosen)


def _apart(receptacles: list[Receptacle]) -> list[Receptacle]:
    """Give each piece of furniture a standing place of its own (two may share one in a scene)."""
    taken: set[scenes.Location] = set()
    placed = []
    for receptacle in receptacles:
        x, z, rotation, horizon = receptacle.location
        while (x, z, rotation, horizon) in taken:
            horizon += 15
        taken.add((x, z, rotation, horizon))
        placed.append(Receptacle(receptacle.id, receptacle.kind, (x, z, rotation, horizon)))
    return placed


def _objects(task_type: str, target: str, room: str, rng: random.Random) -> list[str]:
    """Classes of the room's objects, the target's copies first."""
    copies = 1 + (task_type == "pick_two_obj_and_place" or rng.random() < TWO_COPIES)
    kinds = [target] * copies
    if task_type == "look_at_obj_in_light":
        kinds.append("DeskLamp")
    others = [kind for kind in vocabulary.room_objects(room) if kind != target]
    size = rng.randint(*OBJECTS)
    while len(kinds) < size:
        options = [kind for kind in others if kinds.count(kind) < 2]
        if not options:
            break
        kinds.append(rng.choice(options))
    return kinds


def _host(
    kind: str,
    receptacles: list[Receptacle],
    usual: str,
    habit: float,
    barred: str,
    rng: random.Random,
) -> Receptacle | None:
    """Where an object starts: its usual place with probability `habit`, else elsewhere allowed."""
    if kind == "DeskLamp":
        allowed = [r for r in receptacles if r.kind in vocabulary.LAMP_HOSTS]
    else:
        allowed = [r for r in receptacles if kind in scenes.holds()[r.kind]]
    allowed = [r for r in allowed if r.kind != barred]
    home = [r for r in allowed if r.kind == usual]
    away = [r for r in allowed if r.kind != usual]
    keeps = rng.random() < habit
    pool = (home or away) if keeps else (away or home)
    return rng.choice(pool) if pool else None


def fresh_id(kind: str, place: scenes.Location, ids: set[str], rng: random.Random) -> str:
    """An AI2-THOR style id near the place, unlike all others so far."""
    while True:
        x = place[0] / 4 + rng.uniform(-0.4, 0.4)
        z = place[1] / 4 + rng.uniform(-0.4, 0.4)
        y = rng.uniform(0.3, 1.2)
        id_ = f"{kind}|{'|'.join(scenes.coordinate(value) for value in (x, y, z))}"
        if id_ not in ids:
            ids.add(id_)
            return id_
