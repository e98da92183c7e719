"""The names of methods and gates stand in their declarations, and nowhere else in the source.

The rule, on string constants of `src/sdar` and the workflow that are exactly a name (prose, help
and docstrings may speak of methods):

- A name that means nothing else may not be a constant at all.
- A name that is also an ordinary word (`ORDINARY`: the package, a stage, a column, a retrieval) may
  not stand where a method or gate is meant: compared with, assigned to, passed to or called by
  something whose own name ends in method, gate, variant or the like (`MEANS_ONE`).
- In `sdar.algorithms`, parts of methods (advantages, token credits, distillation terms) are named
  as `sdar.methods.declarations` types them, some like the method that is known for them.

Left out are `sdar.methods`, the registry of gate formulas, the recorded numbers of the
reference (they are of one method and its gate), and the defaults of the configuration.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from sdar.algorithms.gates import FORMULAS
from sdar.methods.declarations import METHODS, AdvantageName, DistillationName, TokenCredit
from sdar.methods.gates import GATES

NAMES = {*METHODS, *GATES}
ORDINARY = {"sdar", "warm_start", "gap", "entropy", "none"}
PARTS = {*get_args(AdvantageName), *get_args(DistillationName), *get_args(TokenCredit)}
MEANS_ONE = re.compile(
    r"(?i)(^|[.])(get_)?(compute_)?(method|gate|gate_?kind|variant|baseline|untrained)s?$"
)
DEFAULTS = {("methods", "grpo"), ("methods", "sdar"), ("method", "sdar"), ("gate", "gap")}
"""(field, name) of the configuration's defaults."""


def constants(node: ast.expr | None) -> Iterator[str]:
    """Strings that an expression is, or lists directly."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for part in getattr(node, "elts", []):
        yield from constants(part)
    if isinstance(node, ast.Dict):
        for part in (*node.keys, *node.values):
            yield from constants(part)
    if isinstance(node, ast.Subscript):  # Literal["gap", ...]
        yield from constants(node.slice)


def meant(node: ast.AST) -> Iterator[tuple[str, str]]:
    """(what is spoken of, string) for each comparison, assignment, argument and call."""
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        for one in sides:
            for other in sides:
                yield from ((ast.unparse(one), name) for name in constants(other))
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            yield from ((ast.unparse(target), name) for name in constants(node.value))
    elif isinstance(node, ast.AnnAssign):
        for part in (node.annotation, node.value):
            yield from ((ast.unparse(node.target), name) for name in constants(part))
    elif isinstance(node, ast.arguments):
        named = [*node.posonlyargs, *node.args]
        pairs = list(zip(reversed(named), reversed(node.defaults), strict=False))
        pairs += list(zip(node.kwonlyargs, node.kw_defaults, strict=True))
        for argument, default in pairs:
            yield from ((argument.arg, name) for name in constants(default))
    elif isinstance(node, ast.Call):
        for argument in node.args:
            yield from ((ast.unparse(node.func), name) for name in constants(argument))
        for keyword in node.keywords:
            yield from ((keyword.arg or "", name) for name in constants(keyword.value))
    elif isinstance(node, ast.Match):
        for case in node.cases:
            for part in ast.walk(case.pattern):
                if isinstance(part, ast.MatchValue):
                    yield from ((ast.unparse(node.subject), name) for name in constants(part.value))


def said(tree: ast.AST, *, allowed: frozenset[str] = frozenset()) -> Iterator[tuple[int, str]]:
    """(line, name) of every constant that breaks the rule."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in NAMES - ORDINARY - allowed:
            yield node.lineno, str(node.value)
        for what, name in meant(node):
            if name in ORDINARY and MEANS_ONE.search(what):
                yield getattr(node, "lineno", 0), name


def without_defaults(tree: ast.Module) -> ast.Module:
    """The configuration's models without the defaults of their fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = {(node.target.id, name) for name in constants(node.value)}
            if names and names <= DEFAULTS:
                node.value = None
    return tree


def test_no_method_and_no_gate_is_named_outside_its_declaration(repository: Path) -> None:
    package = repository / "src" / "sdar"
    broken = []
    for path in sorted(package.rglob("*.py")):
        where = path.relative_to(package)
        if where.parts[0] == "methods" or where.as_posix() == "algorithms/recorded.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if where.parts[0] == "config":
            tree = without_defaults(tree)
        allowed = frozenset(PARTS if where.parts[0] == "algorithms" else ())
        if where.as_posix() == "algorithms/gates.py":
            allowed |= FORMULAS.keys()
        broken += [f"{where}:{line}: {name}" for line, name in said(tree, allowed=allowed)]
    for path in (repository / "Snakefile", *sorted((repository / "workflow").rglob("*.smk"))):
        text = path.read_text(encoding="utf-8")
        for name in NAMES - ORDINARY:
            broken += [f"{path.name}: {name}"] * len(re.findall(rf"""["']{name}["']""", text))
    assert not broken, "\n".join(["said outside sdar.methods:", *broken])


@pytest.mark.parametrize(
    "line",
    [
        'UNTRAINED = ("warm_start", "skill_prompt")',
        'UNTRAINED = ("warm_start",)',
        'if method != "warm_start": pass',
        'beta = "any" if what.gate == "none" else 1',
        'told = gate in ("none", "entropy")',
        'GateKind = Literal["gap", "none"]',
        'def f(*, gate: str = "gap"): pass',
        'warm = Variant("warm_start", False)',
        'get_method("sdar")',
        'compute_gate("gap", gap)',
        'REFERENCE = "grpo"',
        'f(gate="entropy")',
    ],
)
def test_the_rule_sees_a_name(line: str) -> None:
    assert list(said(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        'VIEW = "sdar"',
        'path = runs / "warm_start"',
        'column = pl.col("gap")',
        'statistics["entropy"] = 1',
        'if method.gate_baseline != "none": pass',
        'if retrieval == "none": pass',
        '"""sdar"""',
        'help("Such as grpo or sdar.")',
    ],
)
def test_the_rule_leaves_ordinary_words_alone(line: str) -> None:
    assert not list(said(ast.parse(line)))
