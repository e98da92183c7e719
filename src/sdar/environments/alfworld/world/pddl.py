"""A `Game` as ALFWorld's files: `game.tw-pddl` (problem, domain, grammar) and `traj_data.json`."""

import json
from pathlib import Path

from sdar.environments.alfworld.config import GAMES_FOLDER
from sdar.environments.alfworld.world import scenes
from sdar.environments.alfworld.world.abstract import Game, mangle
from sdar.environments.alfworld.world.scenes import Location

# The domain names these types itself, so every problem has to declare them.
_DOMAIN_RTYPES = ("FridgeType", "MicrowaveType", "SinkBasinType")
_DOMAIN_OTYPES = ("ButterKnifeType", "KnifeType")


def location_name(location: Location) -> str:
    return mangle("loc|" + "|".join(str(part) for part in location))


def goal_text(game: Game) -> str:
    """The goal of the wheel's library, filled in; `#` stands for `-` there."""
    template = str(scenes.goals()[game.task_type]["pddl"])
    filled = template.format(obj=game.target, recep=game.goal, toggle="DeskLamp")
    return filled.replace("#", "-")


def problem_text(game: Game) -> str:
    """The PDDL problem: only the types in use are declared, which keeps the engine cheap."""
    receptacles = {receptacle.id: receptacle for receptacle in game.receptacles}
    loose = dict(game.loose)
    rkinds = sorted({receptacle.kind for receptacle in game.receptacles})
    okinds = sorted({item.kind for item in game.items})
    places = {location_name(r.location) for r in game.receptacles}
    places |= {location_name(place) for place in loose.values()} | {location_name(game.start)}
    objects = ["agent1 - agent"]
    objects += [f"{t} - otype" for t in sorted({f"{k}Type" for k in okinds} | {*_DOMAIN_OTYPES})]
    objects += [f"{t} - rtype" for t in sorted({f"{k}Type" for k in rkinds} | {*_DOMAIN_RTYPES})]
    objects += [f"{mangle(item.id)} - object" for item in game.items]
    objects += [f"{mangle(receptacle.id)} - receptacle" for receptacle in game.receptacles]
    objects += [f"{place} - location" for place in sorted(places)]

    carried = scenes.pickupable()
    facts = [f"receptacleType {mangle(r.id)} {r.kind}Type" for r in game.receptacles]
    facts += [f"objectType {mangle(item.id)} {item.kind}Type" for item in game.items]
    facts += [
        f"canContain {rkind}Type {okind}Type"
        for rkind in rkinds
        for okind in okinds
        if okind in scenes.holds().get(rkind, ())
    ]
    facts += [f"pickupable {mangle(item.id)}" for item in game.items if item.kind in carried]
    for name, kinds in scenes.properties().items():
        things = game.receptacles if name == "openable" else game.items
        facts += [f"{name} {mangle(thing.id)}" for thing in things if thing.kind in kinds]
    facts.append(f"atLocation agent1 {location_name(game.start)}")
    for item in game.items:
        if item.host is None:
            place = loose[item.id]
        else:
            facts.append(f"inReceptacle {mangle(item.id)} {mangle(item.host)}")
            place = receptacles[item.host].location
        facts.append(f"objectAtLocation {mangle(item.id)} {location_name(place)}")
    facts += [
        f"receptacleAtLocation {mangle(r.id)} {location_name(r.location)}" for r in game.receptacles
    ]
    return "\n".join(
        [
            f"(define (problem plan_{game.trial})",
            "(:domain alfred)",
            "(:objects",
            *(f"  {line}" for line in objects),
            ")",
            "(:init",
            *(f"  ({fact})" for fact in facts),
            ")",
            goal_text(game).rstrip(),
            "",
        ]
    )


def game_file(game: Game, walkthrough: list[str] | None) -> dict[str, object]:
    """The content of `game.tw-pddl`."""
    return {
        "pddl_domain": scenes.domain_text(),
        "grammar": scenes.grammar_text().replace("UNKNOWN GOAL", game.sentence.removesuffix(".")),
        "pddl_problem": problem_text(game),
        "solvable": walkthrough is not None,
        "walkthrough": walkthrough,
    }


def trajectory_data(game: Game) -> dict[str, object]:
    """The content of `traj_data.json`, as far as the text environment reads it."""
    return {
        "task_id": game.trial,
        "task_type": game.task_type,
        "pddl_params": {
            "mrecep_target": "",
            "object_sliced": False,
            "object_target": game.target,
            "parent_target": game.goal,
            "toggle_target": "" if game.goal else "DeskLamp",
        },
        "scene": {"floor_plan": f"FloorPlan{game.scene}", "scene_num": game.scene},
        "turk_annotations": {"anns": [{"task_desc": game.sentence.removesuffix(".")}]},
    }


def write_game(game: Game, walkthrough: list[str], data: Path) -> Path:
    """Write the game's folder under `data/json_2.1.1` and return the path of `game.tw-pddl`."""
    folder = data / GAMES_FOLDER / game.id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "traj_data.json").write_text(json.dumps(trajectory_data(game)), encoding="utf-8")
    path = folder / "game.tw-pddl"
    path.write_text(json.dumps(game_file(game, walkthrough)), encoding="utf-8")
    return path
