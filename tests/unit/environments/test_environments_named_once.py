"""An environment's name stands in its own folder and in the registry, nowhere else in the source.

What people read is not looked at: comments, docstrings (the help of the commands among them).
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import sdar
from sdar.environments.packages import NAMES

SOURCE = Path(sdar.__file__).parent
NAMED = re.compile("|".join(name.replace("_", "[-_ ]?") for name in (*NAMES, "search-qa")), re.I)
ALLOWED = {
    "environments/packages.py": "the registry",
    "config/models.py": "the name of the default experiment",
    "cli/serve_retriever.py": "a command that serves this environment's searches",
    "cli/people.py": "that command, and a benchmark with its name",
}


def test_no_environment_is_named_outside_its_folder() -> None:
    own = [SOURCE / "environments" / name for name in NAMES]
    named: dict[str, list[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        if any(path.is_relative_to(folder) for folder in own):
            continue
        found = [word for word in words(ast.parse(path.read_text())) if NAMED.search(word)]
        if found:
            named[path.relative_to(SOURCE).as_posix()] = found
    assert {path: found for path, found in named.items() if path not in ALLOWED} == {}
    assert named.keys() == ALLOWED.keys()


def words(tree: ast.AST) -> Iterator[str]:
    """Identifiers, imported modules and texts, docstrings aside."""
    told = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str) and id(node) not in told:
                yield node.value
            continue
        for field in ("id", "attr", "name", "arg", "module", "asname"):
            said = getattr(node, field, None)
            if isinstance(said, str):
                yield said
