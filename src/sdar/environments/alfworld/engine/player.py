"""One running episode: a `LoadedGame` played on one copy of the planner's library.

Keep a `GamePlayer` and give it one game after the other.
"""

from typing import Any

from sdar.environments.alfworld.engine.downward import give_library, take_library
from sdar.environments.alfworld.engine.game import LoadedGame, Operator, parse_atom
from sdar.environments.alfworld.engine.grammar import Signature

NOTHING_HAPPENS = "Nothing happens."


class GamePlayer:
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
            give_library(self._library)

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
