"""The small games without the engine: same text, same admissible actions, thousands of steps/s.

For demonstrations and relabelling, where hundreds of random homes need no files. Training and
evaluation stay on the engine; `tests/integration/test_simulator_equality.py` holds the two
together. Left out: two pieces of furniture at one standing place, knives, lidded boxes' contents
(no small game has them; `SimulatedGame` refuses them).
"""

from sdar.environments.alfworld.world import scenes, vocabulary
from sdar.environments.alfworld.world.abstract import Game, names_of
from sdar.environments.alfworld.world.solve import VERBS
from sdar.environments.base import Observation
from sdar.errors import SdarError

HELP = """\
Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""
_MIDDLE = "You are in the middle of a room. Looking quickly around you, you see "
_PROPERTY = {"clean": "cleanable", "heat": "heatable", "cool": "coolable"}
_PLACE = {VERBS[task]: place for task, place in vocabulary.APPLIANCE.items()}


class SimulatedGame:
    """One episode of one game; things are known by their names in the text."""

    def __init__(self, game: Game) -> None:
        if len({r.location for r in game.receptacles}) < len(game.receptacles) or any(
            item.host is None or item.kind in ("Knife", "ButterKnife") for item in game.items
        ):
            raise SdarError(f"{game.id}: the simulator plays small games only; use the engine")
        names = names_of(game)  # in the engine's order, which all listings keep
        kinds = {names[r.id]: r.kind for r in game.receptacles}
        item_kinds = {names[item.id]: item.kind for item in game.items}
        self.game = game
        self.receptacles = {name: kinds[name] for name in names.values() if name in kinds}
        self.items = {name: item_kinds[name] for name in names.values() if name in item_kinds}
        self.place = {names[item.id]: names[item.host or ""] for item in game.items}
        self.openable = {
            name for name, kind in kinds.items() if kind in scenes.properties()["openable"]
        }
        self.opened: set[str] = set()
        self.at: str | None = None
        self.held: str | None = None
        self.marks: dict[str, set[str]] = {name: set() for name in self.items}

    def first_text(self) -> str:
        return (
            f"-= Welcome to TextWorld, ALFRED! =-\n\n{self._look()}\n\n"
            f"Your task is to: {self.game.sentence}"
        )

    def accessible(self, receptacle: str) -> bool:
        return receptacle not in self.openable or receptacle in self.opened

    def inside(self, receptacle: str) -> list[str]:
        return [name for name in self.items if self.place[name] == receptacle]

    def commands(self) -> list[str]:
        """All admissible commands, sorted as the engine sorts them."""
        out = {"help", "inventory", "look"}
        out |= {f"go to {name}" for name in self.receptacles if name != self.at}
        held, at = self.held, self.at
        if held is not None:
            # The engine offers no other object for examination, visible or not.
            out.add(f"examine {held}")
        if at is None:
            return sorted(out)
        out.add(f"examine {at}")
        if at in self.openable:
            out.add(f"close {at}" if at in self.opened else f"open {at}")
        inside = self.inside(at)
        out |= {f"use {name}" for name in inside if self._is(name, "toggleable")}
        if self.accessible(at):
            if held is None:
                carried = scenes.pickupable()
                out |= {f"take {i} from {at}" for i in inside if self.items[i] in carried}
            elif self.items[held] in scenes.holds().get(self.receptacles[at], ()):
                out.add(f"move {held} to {at}")
        if held is not None:
            for verb, place in _PLACE.items():
                if self.receptacles[at] == place and self._is(held, _PROPERTY[verb]):
                    out.add(f"{verb} {held} with {at}")
        return sorted(out)

    def play(self, command: str) -> str:
        """Do an admissible command and return the engine's feedback."""
        verb, _, rest = command.partition(" ")
        if command == "look":
            # Before the first "go to" the engine looks at the empty spot it starts on.
            return self._look() if self.at else f"{_MIDDLE}nothing."
        if command == "help":
            return HELP
        if command == "inventory":
            return (
                f"You are carrying: a {self.held}."
                if self.held
                else ("You are not carrying anything.")
            )
        if verb == "go":
            self.at = rest.removeprefix("to ")
            return f"You arrive at {self.at}. {self._examine(self.at)}"
        if verb == "open":
            self.opened.add(rest)
            return f"You open the {rest}. {self._examine(rest)}"
        if verb == "close":
            self.opened.discard(rest)
            return f"You close the {rest}."
        if verb == "examine":
            return self._examine(rest)
        if verb == "use":
            self.marks[rest].add("on")
            return f"You turn on the {rest}."
        if verb == "take":
            item, _, receptacle = rest.partition(" from ")
            self.held, self.place[item] = item, ""
            return f"You pick up the {item} from the {receptacle}."
        if verb == "move":
            item, _, receptacle = rest.partition(" to ")
            self.held, self.place[item] = None, receptacle
            return f"You move the {item} to the {receptacle}."
        item, _, receptacle = rest.partition(" with ")
        self.marks[item].discard({"heat": "cool", "cool": "heat"}.get(verb, ""))
        self.marks[item].add(verb)
        return f"You {verb} the {item} using the {receptacle}."

    def won(self) -> bool:
        game = self.game
        if game.task_type == "look_at_obj_in_light":
            lit = any(
                "on" in self.marks[name] and self.place[name] == self.at
                for name in self.items
                if self._is(name, "toggleable")
            )
            return lit and self.held is not None and self.items[self.held] == game.target
        verb = VERBS.get(game.task_type)
        wanted = 2 if game.task_type == "pick_two_obj_and_place" else 1
        for receptacle, kind in self.receptacles.items():
            if kind != game.goal:
                continue
            placed = [
                name
                for name in self.inside(receptacle)
                if self.items[name] == game.target and (verb is None or verb in self.marks[name])
            ]
            if len(placed) >= wanted:
                return True
        return False

    def _is(self, item: str, property_: str) -> bool:
        return self.items[item] in scenes.properties()[property_]

    def _look(self) -> str:
        if self.at is not None:
            return f"You are facing the {self.at}. Next to it, you see nothing."
        return f"{_MIDDLE}{_listing(list(self.receptacles))}."

    def _examine(self, thing: str) -> str:
        if thing in self.receptacles:
            if thing in self.openable and thing not in self.opened:
                return f"The {thing} is closed."
            inside = _listing(self.inside(thing))
            if thing in self.openable:
                return f"The {thing} is open. In it, you see {inside}."
            return f"On the {thing}, you see {inside}."
        if self._is(thing, "isReceptacleObject"):
            return f"This is a normal {thing}. In it, you see nothing."
        marks = self.marks[thing]
        if self._is(thing, "toggleable"):
            return f"This {thing} is {'on' if 'on' in marks else 'off'}."
        if "heat" in marks or "cool" in marks:
            both = "hot" if "heat" in marks else "cool" if "clean" in marks else "cold"
            return f"This is a {both}{' and clean' if 'clean' in marks else ''} {thing}."
        if "clean" in marks:
            return f"This is a clean {thing}."
        return f"There's nothing special about {thing}."


class SimulatedEnvironment:
    """Plays `Game`s the way a TextEnvironment plays tasks."""

    def __init__(self) -> None:
        self.state: SimulatedGame | None = None
        self._commands: list[str] = []

    def reset(self, game: Game) -> Observation:
        self.state = SimulatedGame(game)
        self._commands = self.state.commands()
        return self._observation(self.state.first_text())

    def step(self, action: str) -> Observation:
        if self.state is None:
            raise SdarError("step before reset: call reset(game) first")
        command = action.strip()
        if command not in self._commands:
            return self._observation("Nothing happens.")
        text = self.state.play(command)
        self._commands = self.state.commands()
        return self._observation(text)

    def close(self) -> None:
        self.state = None

    def _observation(self, text: str) -> Observation:
        assert self.state is not None
        won = self.state.won()
        shown = tuple(command for command in self._commands if command != "help")
        return Observation(text, shown, won, won)


def _listing(names: list[str]) -> str:
    """As the engine's grammar lists things: "a x 1, a y 1, and a z 1", or "nothing"."""
    things = [f"a {name}" for name in names]
    if len(things) < 2:
        return things[0] if things else "nothing"
    return f"{', '.join(things[:-1])}, and {things[-1]}"
