"""The honest expert: it acts on what the episode has shown, and can relabel any policy's state.

Search order: with a hint, the usual places first; then (or without one) either the next receptacle
in admissible order after where it stands (`sweep`: what a policy that remembers two turns can
follow) or an order of the episode's own (`random`). Its thoughts first name what the task needs and
then whether it is here, so that a small policy learns to look before it acts; a search names class
and place as a hint does ("pen: drawer"), for there a hint can act. `solve`, which sees all, is in
solve.py.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sdar.environments.alfworld.observed import Observed, kind_of
from sdar.environments.alfworld.world.solve import VERBS

_APPLIANCES = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
Decision = tuple[str, str]
"""Thought and action."""


@dataclass(frozen=True)
class ExplorerExpert:
    """`hint` maps an object class to its usual receptacle classes (`Home.usual_places`)."""

    seed: int
    order: Literal["sweep", "random"] = "sweep"
    hint: Mapping[str, Sequence[str]] | None = None

    def act(self, seen: Observed) -> Decision:
        """What to do next; a function of (expert, observed) alone.

        The action is always admissible, whoever acted before.
        """
        thought, action = self._decide(seen)
        if action not in seen.admissible:  # nothing is left to do, or nothing can be done
            action = "look" if "look" in seen.admissible else (*seen.admissible, action)[0]
        return f"{describe(seen)}; {thought}", action

    def _decide(self, seen: Observed) -> Decision:
        """The subgoal and the action."""
        if seen.held is not None:
            if kind_of(seen.held) != seen.target:
                return self._put_back(seen, seen.held)
            return self._carry(seen, seen.held)
        return self._fetch(seen)

    def _fetch(self, seen: Observed) -> Decision:
        here = seen.location
        for item in _wanted(seen, here):
            action = f"take {item} from {here}"
            if action in seen.admissible:
                return f"take {item}", action
        known = [(place, item) for place in _cycle(seen, here) for item in _wanted(seen, place)]
        for place, item in known:
            if f"take {item} from {place}" in seen.admissible:
                return f"take {item}", f"take {item} from {place}"
        if known:
            place, item = known[0]
            return _try(seen.target, place), self._approach(seen, place)
        return self._search(seen, seen.target)

    def _carry(self, seen: Observed, item: str) -> Decision:
        if seen.task_type == "look_at_obj_in_light":
            return self._light(seen)
        verb = VERBS.get(seen.task_type)
        if verb is not None and item not in seen.treated:
            appliance = _nearest(seen, _APPLIANCES[verb])
            action = f"{verb} {item} with {appliance}"
            if action not in seen.admissible:
                action = self._approach(seen, appliance)
            return f"{verb} at {appliance}", action
        goal = _goal(seen)
        thought = f"put in {seen.goal}, {goal}"
        move = f"move {item} to {goal}"
        return thought, move if move in seen.admissible else self._approach(seen, goal)

    def _light(self, seen: Observed) -> Decision:
        lamp = seen.goal
        here = [action for action in seen.admissible if action.startswith(f"use {lamp}")]
        if here:
            return f"use {here[0].removeprefix('use ')}", here[0]
        for place in _cycle(seen, seen.location):
            if any(kind_of(item) == lamp for item in seen.contents.get(place, ())):
                return _try(lamp, place), self._approach(seen, place)
        return self._search(seen, lamp)

    def _put_back(self, seen: Observed, item: str) -> Decision:
        for action in seen.admissible:
            if action.startswith(f"move {item} to "):
                return f"put back: {seen.location}", action
        # Where it lay it may not be put again: a real game says so of some things.
        places = _cycle(seen, seen.taken_from)
        place = next((place for place in places if place not in seen.refused), places[0])
        return f"put back: {place}", self._approach(seen, place)

    def _search(self, seen: Observed, kind: str) -> Decision:
        """Look into the next place; a closed one it stands at is opened first."""
        place = self._next_place(seen, kind)
        return _try(kind, place), self._approach(seen, place)

    def _next_place(self, seen: Observed, kind: str) -> str:
        here = seen.location
        if here in seen.closed and here not in seen.contents:
            return str(here)
        # The target never starts in the goal's class: those places come last.
        left = [place for place in seen.receptacles if place not in seen.contents]
        left = [place for place in left if kind_of(place) != seen.goal] or left
        usual = (self.hint or {}).get(kind, ())
        hinted = [place for place in left if kind_of(place) in usual]
        for pool in (hinted, left, list(seen.receptacles)):
            if pool:
                break
        if self.order == "random":
            ranks = list(seen.receptacles)
            random.Random(f"order/{self.seed}").shuffle(ranks)
            return min(pool, key=ranks.index)
        if here is None:
            start = random.Random(f"start/{self.seed}").choice(seen.receptacles)
            return next(place for place in _cycle(seen, start) if place in pool)
        after = [place for place in _cycle(seen, here) if place != here]
        return next((place for place in after if place in pool), here)

    def _approach(self, seen: Observed, place: str) -> str:
        """Go there, or when there already, open it."""
        if not seen.within_reach(place):
            return f"go to {place}"
        opening = f"open {place}"
        return opening if opening in seen.admissible else f"examine {place}"


def _try(kind: str, place: str) -> str:
    """The thought of a search, in the words in which a skill tells usual places."""
    return f"try {kind}: {kind_of(place)}, {place}"


def describe(seen: Observed) -> str:
    """What is needed, and whether it is here or in hand: "need pen, none at shelf 1"."""
    here, need = seen.location, f"need {seen.target}"
    where = "at start" if here is None else f"at {here}"
    if here in seen.closed:
        where += " closed"
    if seen.held is not None:
        return f"{need}, hold {seen.held} {where}"
    if here is None or here in seen.closed:
        return f"{need}, {where}"
    wanted = _wanted(seen, here)
    return f"{need}, {wanted[0] if wanted else 'none'} {where}"


def _cycle(seen: Observed, start: str | None) -> list[str]:
    """Receptacles in admissible order from `start` on, once around."""
    names = list(seen.receptacles)
    first = names.index(start) if start in names else 0
    return names[first:] + names[:first]


def _wanted(seen: Observed, place: str | None) -> list[str]:
    """Targets known to lie at a place and still to be fetched; of two, a placed one stays."""
    if place is None or (seen.task_type == "pick_two_obj_and_place" and place == _goal(seen)):
        return []
    return [item for item in seen.contents.get(place, ()) if kind_of(item) == seen.target]


def _nearest(seen: Observed, kind: str) -> str:
    """The receptacle of a class: the one it stands at, else the first."""
    if seen.location is not None and kind_of(seen.location) == kind:
        return seen.location
    return next((p for p in seen.receptacles if kind_of(p) == kind), seen.receptacles[0])


def _goal(seen: Observed) -> str:
    """Where to put the target: where one lies already (two are to lie together), else nearest."""
    if seen.task_type == "pick_two_obj_and_place":
        for place, items in seen.contents.items():
            if kind_of(place) == seen.goal and any(kind_of(i) == seen.target for i in items):
                return place
    return _nearest(seen, seen.goal)
