"""`sdar` as on a machine that has the core alone: python tests/core_only.py train --method grpo ...

What no requirement of the core leads to cannot be found, though it is installed.
"""

import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from packaging.requirements import Requirement

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def normal(name: str) -> str:
    """A distribution's name as indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def led_to(requirements: Iterable[str]) -> set[str]:
    """The installed distributions that these requirements lead to."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = normal(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        try:
            waiting += map(Requirement, importlib.metadata.requires(name) or [])
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
    return found


def hidden_modules() -> set[str]:
    """Installed modules of other distributions."""
    project = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
    core = led_to(project["dependencies"]) | {"sdar", "pip", "setuptools"}
    return {
        module
        for module, distributions in importlib.metadata.packages_distributions().items()
        if not core.intersection(map(normal, distributions))
    }


class CoreFinder:
    """Python's finder of modules on the path, but for those that are hidden."""

    def __init__(self, hidden: set[str]) -> None:
        self.hidden = hidden

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: object = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] in self.hidden:
            return None
        return PathFinder.find_spec(name, path, target)  # type: ignore[arg-type]

    find_distributions = staticmethod(PathFinder.find_distributions)
    invalidate_caches = staticmethod(PathFinder.invalidate_caches)


def hide() -> set[str]:
    """Hide them in this process; returns their names."""
    hidden = hidden_modules()
    place = sys.meta_path.index(PathFinder)
    sys.meta_path[place] = CoreFinder(hidden)  # type: ignore[call-overload]
    return hidden


if __name__ == "__main__":
    hide()
    from sdar.cli import main

    main()
