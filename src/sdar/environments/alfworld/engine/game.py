"""A loaded game: everything about `game.tw-pddl` that no episode changes.

Loading is the expensive part (.05 to .7 s); a `LoadedGame` is then shared by all episodes that
play it, each with its own `GamePlayer`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from sdar.environments.alfworld.engine.caches import paused_collector, translate
from sdar.environments.alfworld.engine.downward import borrowed_library
from sdar.environments.alfworld.engine.grammar import (
    Grammar,
    Mapped,
    Placeholder,
    Scope,
    Signature,
    depends_only_on,
    parse_grammar,
)
from sdar.environments.alfworld.engine.textworld_api import load_stack
from sdar.errors import SdarError

GAME_KEYS = ("pddl_domain", "grammar", "pddl_problem")


@dataclass
class Operator:
    """A ground action of the planner's library, as the player sees it."""

    name: str
    """`action arg1 arg2 ...`; several operators may share a name (conditional preconditions)."""
    action: str
    mapping: Mapped
    command: str | None
    """The command, when it is the same in every state; None: write it anew at each state."""


@dataclass
class LoadedGame:
    """One game, ready to be played any number of times at once within a process."""

    location: str
    sas: bytes
    grammar: Grammar
    parameters: Mapping[str, tuple[Placeholder, ...]]
    """Typed parameters of each action."""
    types: Mapping[str, str]
    """Type of each object."""
    facts: Mapping[Signature, frozenset[tuple[str, ...]]]
    """True at the start; predicates that the grammar asks about only."""
    changing: frozenset[str]
    """Predicates that some action changes."""
    entities: Mapping[str, Any]
    operators: dict[int, Operator] = field(default_factory=dict)
    """By the library's operator number; filled as operators become applicable."""

    @property
    def weight(self) -> int:
        """Bytes held, roughly: what bounds the cache of games."""
        return 2 * len(self.sas) + 65536

    def static(self, predicate: str) -> bool:
        return predicate.removeprefix("not_") not in self.changing

    def scope(self, facts: Any, mapping: Mapped) -> Scope:
        variables = {name: self.entities[entity] for (name, _), entity in mapping.items()}
        return Scope(facts, variables, mapping)

    def operator(self, number: int, name: str, facts: Any) -> Operator:
        """What the library's operator `number`, called `name`, means."""
        known = self.operators.get(number)
        if known is None:
            action, *arguments = name.split()
            mapping = dict(zip(self.parameters[action], arguments, strict=False))
            known = Operator(name, action, mapping, None)
            if depends_only_on(self.grammar.templates[action], self.static):
                known.command = self.command(known, facts)
            self.operators[number] = known
        return known

    def command(self, operator: Operator, facts: Any) -> str:
        """The command that plays `operator` in a state with `facts`."""
        scope = self.scope(facts, operator.mapping)
        text = self.grammar.write(self.grammar.templates[operator.action], scope)
        if "{" in text or "}" in text:
            text = text.format(**{entity: info.name for entity, info in self.entities.items()})
        return text


def read_game(location: str | Path) -> dict[str, Any]:
    """The JSON of a game file. Raises SdarError naming the file when it is no game."""
    remedy = "regenerate it with sdar tasks, or fetch it again"
    try:
        data = json.loads(Path(location).read_bytes())
    except FileNotFoundError as error:
        raise SdarError(f"game {location}: no such file; {remedy}") from error
    except (OSError, ValueError) as error:
        raise SdarError(f"game {location} cannot be read ({error}); {remedy}") from error
    missing = [key for key in GAME_KEYS if not isinstance(data, dict) or key not in data]
    if missing:
        raise SdarError(f"game {location} lacks {', '.join(missing)}; {remedy}")
    return data


def corrupt_game(location: str | Path, error: BaseException) -> SdarError:
    """The one sentence for a game file that the engine does not understand."""
    reason = " ".join(str(error).split())[:160]
    return SdarError(
        f"game {location} is corrupt ({type(error).__name__}: {reason}); "
        "regenerate it with sdar tasks, or fetch it again"
    )


def load_game(location: str | Path) -> LoadedGame:
    """Load a game from its file.

    Raises SdarError naming the file when it is missing, cut short or not understood.
    """
    game = read_game(location)
    try:
        with paused_collector():
            return _load(str(location), game)
    except SdarError:
        raise
    # The translator and the grammar's parser signal bad input by exceptions of any kind,
    # assertions and SystemExit included.
    except (Exception, SystemExit) as error:
        raise corrupt_game(location, error) from error


def _load(location: str, data: Mapping[str, Any]) -> LoadedGame:
    parsed = parse_grammar(data["grammar"])
    task, sas = translate(data["pddl_domain"], data["pddl_problem"])
    types = {thing.name: thing.type_name for thing in task.objects}
    facts: dict[Signature, set[tuple[str, ...]]] = {}
    named: set[str] = set()

    def add(predicate: str, arguments: Iterable[str]) -> None:
        arguments = tuple(arguments)
        named.update(arguments)
        if predicate in parsed.predicates:
            signature = (predicate, tuple(types[argument] for argument in arguments))
            facts.setdefault(signature, set()).add(arguments)

    translator = load_stack().fast_downward.translate
    for item in task.init:
        if isinstance(item, translator.pddl.conditions.Atom):
            if item.predicate != "=":
                add(item.predicate, item.args)
        elif isinstance(item, translator.pddl.f_expression.Assign):
            # Costs and distances are no facts (the stock engine drops them likewise).
            value = str(item.expression.value)
            if item.fluent.symbol != "total-cost" and not value.isdigit():
                add(value, item.fluent.args)
    with borrowed_library() as library:
        library.load_sas(sas)
        for name in library.state_atoms():
            negated, predicate, arguments = parse_atom(name)
            if not negated:
                add(predicate, arguments)

    entities = _entities(named, types)
    hierarchy = tuple((kind.name, tuple(kind.supertype_names)) for kind in task.types)
    return LoadedGame(
        location=location,
        sas=sas,
        grammar=Grammar(*parsed, _subtypes(hierarchy), entities),
        parameters={
            action.name: tuple((p.name.strip("?"), p.type_name) for p in action.parameters)
            for action in task.actions
        },
        types=types,
        facts={signature: frozenset(known) for signature, known in facts.items()},
        changing=frozenset(
            effect.literal.predicate for action in task.actions for effect in action.effects
        ),
        entities=entities,
    )


def parse_atom(name: str) -> tuple[bool, str, tuple[str, ...]]:
    """(negated, predicate, entities) of the library's `Atom p(a, b)` or `NegatedAtom p(a, b)`."""
    kind, rest = name.split(" ", 1)
    predicate, arguments = rest.split("(", 1)
    return (
        kind == "NegatedAtom",
        predicate,
        tuple(argument for argument in arguments[:-1].split(", ") if argument),
    )


def _entities(named: Iterable[str], types: Mapping[str, str]) -> dict[str, Any]:
    """The player's names of all entities, numbered as ALFWorld does (without shuffling)."""
    stack = load_stack()
    info_class = stack.textworld.generator.game.EntityInfo
    entities = {}
    # Sorted: the numbering must not depend on hash order.
    for entity in sorted(named):
        info = info_class(entity, types[entity])
        info.name, info.definite, info.indefinite = entity, "the", "a"
        entities[entity] = info
    demangler = stack.demangler(game_infos=entities, shuffle=False)
    for info in entities.values():
        info.name = demangler.demangle_alfred_name(info.id)
    return entities


@lru_cache(maxsize=64)
def _subtypes(hierarchy: tuple[tuple[str, tuple[str, ...]], ...]) -> Any:
    """The engine's own order of the type tuples that a tuple of declared types admits."""
    logic = load_stack().textworld.logic
    types = logic.TypeHierarchy()
    for name, parents in hierarchy:
        if name not in types._types:
            types.add(logic.Type(name, parents))

    @lru_cache(maxsize=1024)
    def subtypes(declared: tuple[str, ...]) -> list[tuple[str, ...]]:
        tuples = types.multi_subtypes([types.get(name) for name in declared])
        return [tuple(kind.name for kind in kinds) for kinds in tuples]

    return subtypes
