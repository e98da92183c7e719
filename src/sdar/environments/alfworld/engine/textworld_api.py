"""The only door to textworld and alfworld: imported late, quietly, and with a clear error.

Both are an optional extra. Importing `alfworld.info` creates the folder `$ALFWORLD_DATA` (by
default in the user's home) and exports the variable; here it is pointed at a temporary folder for
the duration of the import, so nothing is created in the home and the environment is unchanged.
"""

import importlib
import os
import tempfile
import warnings
from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

from sdar.errors import SdarError

SUPPORTED_TEXTWORLD = "1.7.0"
"""The version whose text generation and PDDL state the fast engine reproduces."""


class Stack(NamedTuple):
    """What the engine uses of textworld, alfworld and fast-downward."""

    textworld: ModuleType
    fast_downward: ModuleType
    pddl_env: Any
    """`textworld.envs.pddl.PddlEnv`."""
    pddl_logic: ModuleType
    """`textworld.envs.pddl.logic`: the game's logic file and its parser."""
    textgen: ModuleType
    """`textworld.envs.pddl.textgen`: the grammar that writes observations and commands."""
    demangler: Any
    """`alfworld.agents.utils.misc.Demangler`: names such as `cabinet 3` from object ids."""


@lru_cache(maxsize=1)
def load_stack() -> Stack:
    """Import the engine once per process.

    Raises SdarError when the extra is not installed.
    """
    previous = os.environ.get("ALFWORLD_DATA")
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["ALFWORLD_DATA"] = folder
            return Stack(
                textworld=importlib.import_module("textworld"),
                fast_downward=importlib.import_module("fast_downward"),
                pddl_env=importlib.import_module("textworld.envs.pddl").PddlEnv,
                pddl_logic=importlib.import_module("textworld.envs.pddl.logic"),
                textgen=importlib.import_module("textworld.envs.pddl.textgen"),
                demangler=importlib.import_module("alfworld.agents.utils.misc").Demangler,
            )
    except ImportError as error:
        raise SdarError(
            f"environment alfworld needs the packages textworld and alfworld ({error}): "
            'pip install "sdar[alfworld]"'
        ) from error
    finally:
        if previous is None:
            os.environ.pop("ALFWORLD_DATA", None)
        else:
            os.environ["ALFWORLD_DATA"] = previous


def stock_stack() -> Any:
    """A fresh environment exactly as ALFWorld builds it (nothing of ours inside)."""
    stack = load_stack()
    tw_env = importlib.import_module("alfworld.agents.environment.alfred_tw_env")
    infos = stack.textworld.EnvInfos(won=True, admissible_commands=True, extras=["gamefile"])
    return tw_env.AlfredInfos(tw_env.AlfredDemangler(stack.pddl_env(infos), shuffle=False))


@lru_cache(maxsize=1)
def fast_engine_applies() -> bool:
    """Whether the installed textworld is the version the fast engine was checked against.

    Warns once when it is not: the stock engine is then used, with equal results but slowly.
    """
    version = load_stack().textworld.__version__
    if version != SUPPORTED_TEXTWORLD:
        warnings.warn(
            f"textworld {version} is not the tested {SUPPORTED_TEXTWORLD}: the stock engine is "
            'used, about 20 times slower; pip install "sdar[alfworld]" installs the tested one',
            stacklevel=2,
        )
        return False
    return True
