"""The environments there are, by the name a configuration gives them. The only list of them."""

from functools import cache
from importlib import import_module
from itertools import chain
from pathlib import Path

from sdar.environments.base import EnvironmentPackage
from sdar.environments.section import EnvironmentSection
from sdar.errors import SdarError
from sdar.extras import EXTRAS, Extras

NAMES = ("alfworld", "webshop", "searchqa", "textworld_express")
DEFAULT = "alfworld"
"""The environment of a configuration that names none."""


def environment_package(name: str) -> EnvironmentPackage:
    """The package of the environment `name`; it is imported on first use.

    Raises `SdarError` for a name that is none.
    """
    if name not in NAMES:
        raise SdarError(f"environment.name: {name!r} is not one of {', '.join(NAMES)}; correct it")
    package: EnvironmentPackage = import_module(f"sdar.environments.{name}.package").PACKAGE
    return package


@cache
def environment_sections() -> dict[str, type[EnvironmentSection]]:
    """Each environment's section of the configuration, by name."""
    return {name: import_module(f"sdar.environments.{name}.config").SECTION for name in NAMES}


def all_extras() -> Extras:
    """The extras of sdar, those of the environments first."""
    of_sections = (section.extras.items() for section in environment_sections().values())
    return dict(chain(*of_sections, EXTRAS.items()))


def skills_folder(name: str) -> Path:
    """The skills that come with sdar for an environment."""
    return Path(__file__).resolve().parent / name / "skills"


@cache
def type_labels() -> dict[str, str]:
    """The task types that have a label, of all environments in their order."""
    sections = environment_sections().values()
    return {name: label for section in sections for name, label in section.type_labels.items()}
