"""One running episode on one copy of fast-downward's library.

The library holds one state for its whole process image, so every episode that is alive at once
needs a copy of its own (made from a temporary file at creation). Copies are costly (.05 s) and
stay mapped: keep a `Player` and give it one game after the other.
"""

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

from sdar.environments.alfworld.game import LoadedGame, Operator, parse_atom
from sdar.environments.alfworld.grammar import Signature
from sdar.environments.alfworld.textworld_api import load_stack

NOTHING_HAPPENS = "Nothing happens."


class Library:
    """The part of the planner's library that steps a game."""

    def __init__(self) -> None:
        self._downward = load_stack().fast_downward
        self._lib: Any = self._downward.load_lib()
        self._operators: Any = (self._downward.Operator * 128)()
        self._effects: Any = (self._downward.Atom * 32)()

    def load_sas(self, sas: bytes) -> None:
        """Start the game: also how an episode is reset."""
        self._lib.load_sas(sas)

    def state_atoms(self) -> list[str]:
        """The value of every state variable, as text."""
        atoms = (self._downward.Atom * self._lib.get_state_size())()
        self._lib.get_state(atoms)
        return [atom.name for atom in atoms]

    def applicable(self) -> list[tuple[int, Any]]:
        """(number, record) of each applicable operator, in the library's order.

        Records are overwritten by the next call.
        """
        count = self._lib.get_applicable_operators_count()
        if count > len(self._operators):
            self._operators = (self._downward.Operator * (2 * count))()
        self._lib.get_applicable_operators(
            ctypes.cast(self._operators, self._lib.get_applicable_operators.argtypes[0])
        )
        records = self._operators
        return [(records[i].id, records[i]) for i in range(count)]

    def apply(self, number: int, effects: int) -> list[str]:
        """Apply an operator with `effects` effect atoms; the atoms as text, in order."""
        if effects > len(self._effects):
            self._effects = (self._downward.Atom * (2 * effects))()
        self._lib.apply_operator(
            number, ctypes.cast(self._effects, self._lib.apply_operator.argtypes[1])
        )
        return [self._effects[i].name for i in range(effects)]

    def goal_reached(self) -> bool:
        return bool(self._lib.check_goal())


_SPARE: list[Library] = []
"""Copies nobody plays on. They are never unloaded: `fast_downward.close_lib` crashes the process,
at its end or at the next copy's loading."""


def take_library() -> Library:
    return _SPARE.pop() if _SPARE else Library()


@contextlib.contextmanager
def borrowed_library() -> Iterator[Library]:
    """A library for a moment: loading a game needs one."""
    library = take_library()
    try:
        yield library
    finally:
        _SPARE.append(library)


class Player:
    """Plays one game at a time: same texts, commands and goal test as textworld's `PddlEnv`."""

    def __init__(self) -> None:
        self._library = take_library()
        self._closed = False
        self._game: LoadedGame | None = None
        self._facts: dict[Signature, Any] = {}
        self._playable: list[tuple[int, Operator, int]] = []
        self._commands: list[str] = []
        self.admissible: list[str] = []
        """All commands that do something in this state, sorted, `help` included."""
        self.won = False

    def reset(self, game: LoadedGame) -> str:
        """Start `game`; returns the first observation."""
        if self._closed:
            raise RuntimeError("reset after close")
        self._game = game
        self._library.load_sas(game.sas)
        self._facts = {
            signature: known if game.static(signature[0]) else set(known)
            for signature, known in game.facts.items()
        }
        intro = game.grammar.write_rule("intro", game.scope(self._facts, {}))
        self._look_around()
        return intro

    def step(self, command: str) -> str:
        """Play a command (outer blanks aside exactly an admissible one); returns what is seen.

        Anything else gives "Nothing happens." and changes nothing.
        """
        game = self._game
        if game is None:
            raise RuntimeError("step before reset, or after close")
        try:
            place = self._commands.index(command.strip())
        except ValueError:
            return NOTHING_HAPPENS
        number, operator, effects = self._playable[place]
        for atom in self._library.apply(number, effects):
            self._learn(atom)
        text = game.grammar.write(
            game.grammar.feedback[operator.action], game.scope(self._facts, operator.mapping)
        )
        self._look_around()
        return text

    def close(self) -> None:
        """Leave the library to the next player of this process."""
        if not self._closed:
            self._closed = True
            self._game = None
            _SPARE.append(self._library)

    def _learn(self, atom: str) -> None:
        """Take in one effect: the fact becomes true and its opposite false."""
        assert self._game is not None
        negated, predicate, entities = parse_atom(atom)
        types = tuple(self._game.types[entity] for entity in entities)
        true, false = (predicate, types), (f"not_{predicate}", types)
        if negated:
            true, false = false, true
        asked = self._game.grammar.predicates
        if false in self._facts:
            self._facts[false].discard(entities)
        if true[0] in asked:
            self._facts.setdefault(true, set()).add(entities)

    def _look_around(self) -> None:
        """Find what can be done now, and whether the goal is reached."""
        game = self._game
        assert game is not None
        self.won = self._library.goal_reached()
        self._playable, self._commands = [], []
        seen: set[str] = set()
        for number, record in self._library.applicable():
            known = game.operators.get(number)
            operator = known or game.operator(number, record.name, self._facts)
            if operator.name in seen:
                continue
            seen.add(operator.name)
            command = operator.command
            if command is None:
                command = game.command(operator, self._facts)
            self._playable.append((number, operator, record.nb_effect_atoms))
            self._commands.append(command)
        self.admissible = sorted(set(self._commands))
