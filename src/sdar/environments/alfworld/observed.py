"""What an agent knows from an episode's text alone: rebuilt action by action, whoever acted.

The expert decides from this, so it sees no more than a policy could have remembered; and any
policy's episode can be relabelled by feeding its actions and observations here.
"""

import re
from dataclasses import dataclass, field

from sdar.environments.base import Observation
from sdar.errors import SdarError

_NAME = re.compile(r"\ba ([a-z]+ \d+)")
_SENTENCES = tuple(
    re.compile(pattern)
    for pattern in (
        r"^(?:look at|examine the) (?P<obj>\w+) (?:under|with) the (?P<toggle>\w+)\.?$",
        r"^(?:put|find) two (?P<obj>\w+) (?:and put them )?in (?P<recep>\w+)\.?$",
        r"^(?:clean|heat|cool) some (?P<obj>\w+) and put it in (?P<recep>\w+)\.?$",
        r"^put a (?:clean|hot|cool) (?P<obj>\w+) in (?P<recep>\w+)\.?$",
        r"^put (?:a|some) (?P<obj>\w+) (?:in|on) (?P<recep>\w+)\.?$",
    )
)


def parse_instruction(instruction: str) -> tuple[str, str]:
    """Target class and goal class (the lamp's, for look) of a templated task sentence."""
    for sentence in _SENTENCES:
        match = sentence.match(instruction.strip().lower())
        if match:
            fields = match.groupdict()
            return fields["obj"], fields.get("recep") or fields.get("toggle") or ""
    raise SdarError(
        f"the task '{instruction}' follows none of ALFWorld's sentence templates: "
        "the scripted expert plays templated tasks only"
    )


@dataclass
class Observed:
    """Knowledge after some turns. All names are as in the text ("fridge 1")."""

    task_type: str
    target: str
    goal: str
    receptacles: tuple[str, ...]
    """In admissible order (sorted by name)."""
    admissible: tuple[str, ...]
    location: str | None = None
    held: str | None = None
    taken_from: str | None = None
    contents: dict[str, list[str]] = field(default_factory=dict)
    """What each receptacle was last known to hold, for those looked into."""
    closed: set[str] = field(default_factory=set)
    """Receptacles last seen closed."""
    treated: set[str] = field(default_factory=set)
    """Objects cleaned, heated or cooled as the task asks."""
    refused: set[str] = field(default_factory=set)
    """Open receptacles where what is held could not be put."""
    turns: int = 0

    @classmethod
    def start(cls, task_type: str, instruction: str, first: Observation) -> "Observed":
        target, goal = parse_instruction(instruction)
        going = (action for action in first.admissible_actions if action.startswith("go to "))
        # One where the agent starts is told of, but nobody can go there.
        told = _NAME.findall(first.text.partition("Your task is to:")[0])
        receptacles = tuple(sorted({*told, *(action.removeprefix("go to ") for action in going)}))
        return cls(task_type, target, goal, receptacles, first.admissible_actions)

    def within_reach(self, place: str) -> bool:
        """The agent stands at `place`, or at another receptacle of the same spot: one does not go
        there, but may open, examine and use it."""
        return place == self.location or f"go to {place}" not in self.admissible

    def update(self, action: str, observation: Observation) -> None:
        """Take in one turn: the action as sent and what the environment said."""
        self.turns += 1
        self.admissible = observation.admissible_actions
        self._take_in(action, observation.text)
        here = self.location
        if self.held is None:
            self.refused.clear()
        elif here is not None and here not in self.closed:
            offered = f"move {self.held} to {here}" in self.admissible
            (self.refused.discard if offered else self.refused.add)(here)

    def _take_in(self, action: str, text: str) -> None:
        verb, _, rest = action.strip().partition(" ")
        if text == "Nothing happens.":
            return
        if verb == "go":
            self.location = rest.removeprefix("to ")
            self._see(self.location, text)
        elif verb in ("open", "examine") and rest in self.receptacles:
            self.location = rest
            self._see(rest, text)
        elif verb == "close":
            self.closed.add(rest)
        elif verb == "take":
            item, _, receptacle = rest.partition(" from ")
            self.held, self.taken_from = item, receptacle
            self.location = receptacle
            if item in self.contents.get(receptacle, ()):
                self.contents[receptacle].remove(item)
        elif verb == "move":
            item, _, receptacle = rest.partition(" to ")
            self.held = None
            self.location = receptacle
            self.contents.setdefault(receptacle, []).append(item)
        elif verb in ("clean", "heat", "cool"):
            item = rest.partition(" with ")[0]
            if f"_{verb}_" in self.task_type:
                self.treated.add(item)
            elif {verb, self.task_type.split("_")[1]} == {"heat", "cool"}:
                self.treated.discard(item)  # heating undoes cooling and the other way round

    def _see(self, receptacle: str, text: str) -> None:
        if text.endswith("is closed."):
            self.closed.add(receptacle)
            return
        self.closed.discard(receptacle)
        _, _, listing = text.rpartition("you see ")
        self.contents[receptacle] = _NAME.findall(listing)


def kind_of(name: str) -> str:
    """Class of a thing by its name: "fridge 1" -> "fridge"."""
    return name.rsplit(" ", 1)[0]
