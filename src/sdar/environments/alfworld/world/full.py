"""Full-size games: whole scenes, furnished to look like real ALFWorld.

All of a scene's furniture stays; every class the scene lists is there in one to three copies (the
target in two to six), drawn to the furniture as in real games. The target's copies follow the
home's habits with probability `habit`.
"""

import random

from sdar.environments.alfworld.world import real_rooms, scenes, vocabulary
from sdar.environments.alfworld.world.abstract import Game, Item
from sdar.environments.alfworld.world.home import Home, askable_objects
from sdar.environments.alfworld.world.scenes import Location, Receptacle, Scene
from sdar.environments.alfworld.world.small import Combination, fresh_id, say


def combinations(task_type: str, home: Home, split: str) -> list[Combination]:
    """Every combination of object, goal and scene that alfworld's tables allow, sorted."""
    possible: list[Combination] = []
    appliance = vocabulary.APPLIANCE.get(task_type)
    for room, kinds in askable_objects(task_type).items():
        for number in scenes.scene_numbers(room, split):
            scene = scenes.scene(number)
            furniture = scene.receptacle_kinds
            if appliance is not None and appliance not in furniture:
                continue
            if task_type == "look_at_obj_in_light" and not _lamp_places(scene):
                continue
            for kind in kinds:
                hosts = {place for place in furniture if kind in scenes.holds().get(place, ())}
                if kind not in scene.classes or not hosts:
                    continue
                if task_type == "look_at_obj_in_light":
                    possible.append((task_type, kind, "", number))
                    continue
                barred = {appliance, home.usual[room].get(kind)}
                possible += [
                    (task_type, kind, goal, number)
                    for goal in sorted(hosts - barred)
                    if hosts - {goal}
                ]
    return sorted(possible)


def furnish(combination: Combination, home: Home, split: str, index: int, trial: str) -> Game:
    """Make the game of a combination; a function of its arguments alone."""
    task_type, target, goal, number = combination
    scene = scenes.scene(number)
    rng = random.Random(f"full/{trial}")
    ids: set[str] = set()
    items: list[Item] = []
    loose: list[tuple[str, Location]] = []
    corner = max(receptacle.location[0] for receptacle in scene.receptacles) + 4
    # Furniture is no object, placed or not; neither are a few classes ALFWorld's games leave out.
    furniture = frozenset(scenes.holds()) - scenes.properties()["isReceptacleObject"]
    known = frozenset(scenes.constants().OBJECTS) - furniture
    for kind in sorted(scene.classes & known):
        if kind == target:
            copies = _draw(real_rooms.TARGET_COPIES, rng)
        elif kind in scenes.pickupable():
            copies = _draw(real_rooms.COPIES, rng)
        else:
            copies = real_rooms.LOOSE_COPIES.get(kind, 1)
        for _ in range(copies):
            host = _host(kind, scene, home, goal if kind == target else "", kind == target, rng)
            if host is not None:
                items.append(Item(fresh_id(kind, host.location, ids, rng), kind, host.id))
            elif kind not in scenes.pickupable() and kind != "DeskLamp":
                corner += 1
                place = (corner, 0, rng.randrange(4), 30)
                id_ = fresh_id(kind, place, ids, rng)
                items.append(Item(id_, kind, None))
                loose.append((id_, place))
    return Game(
        *(split, index, *combination, trial),
        sentence=say(task_type, target, goal, rng),
        receptacles=tuple(sorted(scene.receptacles, key=lambda receptacle: receptacle.id)),
        items=tuple(sorted(items, key=lambda item: item.id)),
        start=(corner + 2, 0, 0, 30),
        loose=tuple(sorted(loose)),
    )


def _lamp_places(scene: Scene) -> list[Receptacle]:
    if "DeskLamp" not in scene.classes:
        return []
    return [r for r in scene.receptacles if r.kind in real_rooms.LAMP_HOSTS]


def _host(
    kind: str, scene: Scene, home: Home, barred: str, habitual: bool, rng: random.Random
) -> Receptacle | None:
    """Where an object starts: drawn by what furniture holds in real games, the target by habit."""
    if kind == "DeskLamp":
        allowed, habitual = _lamp_places(scene), True
    else:
        allowed = [r for r in scene.receptacles if kind in scenes.holds().get(r.kind, ())]
    allowed = [r for r in allowed if r.kind != barred]
    if habitual and rng.random() < home.habit:
        usual = home.usual[scene.room].get(kind)
        allowed = [r for r in allowed if r.kind == usual] or allowed
    if not allowed:
        return None
    openable = scenes.properties()["openable"]
    weights = [real_rooms.pull(scene.room, r.kind, r.kind in openable) for r in allowed]
    return rng.choices(allowed, weights)[0]


def _draw(shares: dict[int, float], rng: random.Random) -> int:
    return rng.choices(list(shares), list(shares.values()))[0]
