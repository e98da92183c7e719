"""The environments there are, by the name a configuration gives them."""

from importlib import import_module

from sdar.environments.base import EnvironmentPackage
from sdar.errors import SdarError

NAMES = ("alfworld", "webshop", "searchqa", "textworld_express")


def environment_package(name: str) -> EnvironmentPackage:
    """The package of the environment `name`; it is imported on first use.

    Raises `SdarError` for a name that is none.
    """
    if name not in NAMES:
        raise SdarError(f"environment.name: {name!r} is not one of {', '.join(NAMES)}; correct it")
    package: EnvironmentPackage = import_module(f"sdar.environments.{name}.package").PACKAGE
    return package
