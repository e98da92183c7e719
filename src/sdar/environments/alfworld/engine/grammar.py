"""The game's text grammar, parsed once and evaluated directly.

`textworld.envs.pddl.textgen` (1.7.0) parses every template again at each use and deep-copies the
whole context for every symbol; most of a step goes there. This evaluator gives the same text from
the same parse: the stock parser makes the symbols, here they are compiled to small tuples, and a
query walks only the facts it names. What is kept exactly: the first applicable rule wins;
placeholders of one query never share an entity; matches come in the order of the sorted facts,
signature by signature in the order of the type hierarchy.

A fact is the tuple of its entities' ids, stored by (predicate, types of the entities).
"""

import builtins
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType
from typing import Any, NamedTuple

from sdar.environments.alfworld.engine.textworld_api import load_stack

Placeholder = tuple[str, str]
"""(name, type), as in `receptacleatlocation(r:receptacle, l:location)`."""
Signature = tuple[str, tuple[str, ...]]
"""(predicate, types of the entities)."""
Facts = Mapping[Signature, Iterable[tuple[str, ...]]]
Mapped = dict[Placeholder, str]
"""Which entity a placeholder stands for."""

_BUILTINS = {"__builtins__": builtins}
_TASK_RULE = re.compile(r'("rhs": "Your task is to: )([^"\\#\[\]{}|]*)(")')


class Text(NamedTuple):
    text: str


class Rule(NamedTuple):
    """`#name#`: replaced by the first applicable rule of that name."""

    name: str


class Evaluated(NamedTuple):
    """`{r.name}`: a Python expression over the entities in scope."""

    code: CodeType


class Listed(NamedTuple):
    """`[...]`: the matches as an English list."""

    symbol: "Symbol"


class Matched(NamedTuple):
    """`{expression | query}`: the expression once for every match of the query."""

    expression: "Symbol"
    query: "Query | None"


Symbol = Text | Rule | Evaluated | Listed | Matched


class Condition(NamedTuple):
    predicate: str
    placeholders: tuple[Placeholder, ...]


Query = tuple[Condition, ...]


class Production(NamedTuple):
    condition: Query | None
    symbols: tuple[Symbol, ...]


@dataclass
class Scope:
    """What a symbol is evaluated in."""

    facts: Facts
    variables: dict[str, Any]
    """Entity objects by placeholder name; they carry `name`, `id`, `indefinite`."""
    mapping: Mapped


@dataclass(frozen=True)
class Grammar:
    """All rules of a game, and for each action its command template and feedback."""

    productions: Mapping[str, tuple[Production, ...]]
    templates: Mapping[str, tuple[Symbol, ...]]
    """Command template by action name (lower case)."""
    feedback: Mapping[str, tuple[Symbol, ...]]
    predicates: frozenset[str]
    """Predicates that some query asks about; other facts need not be kept."""
    subtypes: Callable[[tuple[str, ...]], list[tuple[str, ...]]] = field(compare=False)
    """The type tuples that a tuple of declared types admits, in the engine's order."""
    entities: Mapping[str, Any] = field(compare=False)

    def write(self, symbols: Iterable[Symbol], scope: Scope) -> str:
        """The text of `symbols` in `scope`."""
        out: list[str] = []
        for symbol in symbols:
            self._emit(symbol, scope, out)
        return "".join(out)

    def write_rule(self, name: str, scope: Scope) -> str:
        """The text of the rule `#name#` in `scope`."""
        return self.write([Rule(name)], scope)

    def _emit(self, symbol: Symbol, scope: Scope, out: list[str]) -> None:
        if isinstance(symbol, Text):
            out.append(symbol.text)
        elif isinstance(symbol, Evaluated):
            out.append(str(eval(symbol.code, _BUILTINS, scope.variables)))
        elif isinstance(symbol, Rule):
            for part in self._first_applicable(symbol.name, scope):
                self._emit(part, scope, out)
        else:
            for part, inner in self._derive(symbol, scope):
                self._emit(part, inner, out)

    def _first_applicable(self, name: str, scope: Scope) -> tuple[Symbol, ...]:
        for production in self.productions[name]:
            if production.condition is None:
                return production.symbols
            if next(self._matches(production.condition, scope), None) is not None:
                return production.symbols
        raise IndexError(f"no rule of #{name}# applies")

    def _derive(self, symbol: Symbol, scope: Scope) -> list[tuple[Symbol, Scope]]:
        """One step of derivation, with the scope of each part."""
        if isinstance(symbol, Evaluated):
            return [(Text(str(eval(symbol.code, _BUILTINS, scope.variables))), scope)]
        if isinstance(symbol, Matched):
            if symbol.query is None:
                return [(symbol.expression, scope)]
            return [(symbol.expression, inner) for inner in self._scopes(symbol.query, scope)]
        if isinstance(symbol, Listed):
            parts = self._derive(symbol.symbol, scope)
            if not parts:
                return [(Rule("list_empty"), scope)]
            listed: list[tuple[Symbol, Scope]] = []
            for place, part in enumerate(parts):
                if place:
                    last = place == len(parts) - 1
                    name = "list_last_separator" if last else "list_separator"
                    listed.append((Rule(name), scope))
                listed.append(part)
            return listed
        raise TypeError(f"{symbol!r} cannot stand in a list")

    def _scopes(self, query: Query, scope: Scope) -> Iterator[Scope]:
        for mapping in self._matches(query, scope):
            entities = {name: self.entities[entity] for (name, _), entity in mapping.items()}
            yield Scope(scope.facts, {**scope.variables, **entities}, mapping)

    def _matches(self, query: Query, scope: Scope) -> Iterator[Mapped]:
        return self._extend(query, 0, scope.mapping, scope.facts)

    def _extend(self, query: Query, depth: int, mapping: Mapped, facts: Facts) -> Iterator[Mapped]:
        if depth == len(query):
            yield mapping
            return
        predicate, placeholders = query[depth]
        used = set(mapping.values())
        bound = [(i, mapping[p]) for i, p in enumerate(placeholders) if p in mapping]
        for types in self.subtypes(tuple(type_ for _, type_ in placeholders)):
            candidates = facts.get((predicate, types))
            if not candidates:
                continue
            # Filtering before sorting leaves the same order with far fewer comparisons.
            for entities in sorted(
                fact for fact in candidates if all(fact[i] == entity for i, entity in bound)
            ):
                extended = dict(mapping)
                taken = set(used)
                for placeholder, entity in zip(placeholders, entities, strict=True):
                    known = extended.get(placeholder)
                    if known is None:
                        if entity in taken:
                            break
                        extended[placeholder] = entity
                        taken.add(entity)
                    elif known != entity:
                        break
                else:
                    yield from self._extend(query, depth + 1, extended, facts)


def depends_only_on(symbols: Iterable[Symbol], static: Callable[[str], bool]) -> bool:
    """Whether the text of `symbols` is fixed by their entities and by `static` predicates."""
    for symbol in symbols:
        if isinstance(symbol, Rule):
            return False
        if isinstance(symbol, Listed) and not depends_only_on([symbol.symbol], static):
            return False
        if isinstance(symbol, Matched):
            if not all(static(condition.predicate) for condition in symbol.query or ()):
                return False
            if not depends_only_on([symbol.expression], static):
                return False
    return True


class ParsedGrammar(NamedTuple):
    """A grammar before it knows its game: shared by all games with the same grammar text."""

    productions: Mapping[str, tuple[Production, ...]]
    templates: Mapping[str, tuple[Symbol, ...]]
    feedback: Mapping[str, tuple[Symbol, ...]]
    predicates: frozenset[str]


def parse_grammar(text: str) -> ParsedGrammar:
    """Parse a game's `grammar` (the twl2 text), memoised.

    Games differ in their task sentence only, so the sentence is cut out before the parse (which
    takes .07 s) and put back after it.
    """
    rules = _TASK_RULE.findall(text)
    if len(rules) != 1:
        return _parse(text)
    parsed = _parse(_TASK_RULE.sub(r"\g<1>\g<3>", text))
    # The grammar is JSON inside a block of the twl2 text: the sentence is a JSON string.
    sentence = json.loads(f'"Your task is to: {rules[0][1]}"')
    task = (Production(None, _compile_text(sentence)),)
    return parsed._replace(productions={**parsed.productions, "task": task})


@lru_cache(maxsize=16)
def _parse(text: str) -> ParsedGrammar:
    stack = load_stack()
    logic = stack.pddl_logic.GameLogic(domain="", grammar=text)
    productions = {
        name: tuple(
            Production(
                _compile_query(rule.condition) if rule.condition else None,
                tuple(_compile(symbol) for symbol in rule.rhs),
            )
            for rule in rules
        )
        for name, rules in logic.grammar._rules.items()
    }
    templates = {name: _compile_text(action.template) for name, action in logic.actions.items()}
    feedback = {name: _compile_text(action.feedback_rule) for name, action in logic.actions.items()}
    asked: set[str] = set()
    for rules in productions.values():
        for production in rules:
            asked.update(condition.predicate for condition in production.condition or ())
            _collect(production.symbols, asked)
    for symbols in (*templates.values(), *feedback.values()):
        _collect(symbols, asked)
    return ParsedGrammar(productions, templates, feedback, frozenset(asked))


def _collect(symbols: Iterable[Symbol], asked: set[str]) -> None:
    for symbol in symbols:
        if isinstance(symbol, Listed):
            _collect([symbol.symbol], asked)
        elif isinstance(symbol, Matched):
            asked.update(condition.predicate for condition in symbol.query or ())
            _collect([symbol.expression], asked)


@lru_cache(maxsize=4096)
def _compile_text(text: str) -> tuple[Symbol, ...]:
    symbols = load_stack().textgen._parse_and_convert(text, rule_name="symbols")
    return tuple(_compile(symbol) for symbol in symbols)


def _compile(symbol: Any) -> Symbol:
    """A stock textgen symbol as one of ours."""
    textgen = load_stack().textgen
    if isinstance(symbol, textgen.TerminalSymbol):
        return Text(str(symbol.symbol))
    if isinstance(symbol, textgen.NonterminalSymbol):
        return Rule(str(symbol.symbol))
    if isinstance(symbol, textgen.EvalSymbol):
        return Evaluated(compile(symbol.expression.strip(), "<grammar>", "eval"))
    if isinstance(symbol, textgen.ListSymbol):
        return Listed(_compile(symbol.symbol))
    if isinstance(symbol, textgen.ConditionalSymbol):
        query = _compile_query(symbol.given) if symbol.given else None
        return Matched(_compile(symbol.expression), query)
    raise TypeError(f"unknown grammar symbol {symbol!r}")


@lru_cache(maxsize=1024)
def _compile_query(text: str) -> Query:
    rule = load_stack().textworld.logic.Rule.parse_conjunctive_query(text)
    return tuple(
        Condition(predicate.name, tuple((p.name, p.type) for p in predicate.parameters))
        for predicate in rule.preconditions
    )
