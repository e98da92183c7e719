"""Which methods play which part in an experiment, and what they are called in its report. All of it
follows from the declarations."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

from sdar.methods.declarations import METHODS, get_method

TRAINED = tuple(name for name, method in METHODS.items() if method.trained)
UNTRAINED = tuple(name for name, method in METHODS.items() if not method.trained)
SWEPT = tuple(name for name, method in METHODS.items() if method.without_distillation)
"""What a sweep may vary."""

START, START_WITH_SKILL = "warm_start", "skill_prompt"
"""The policy that training starts from, played without and with the skill: the difference is what
there is to distil."""
REFERENCE = "grpo"
"""What the other trained methods are compared with."""

if TYPE_CHECKING:
    MethodName = str
    SweptMethod = str
else:
    # For the configuration: pydantic checks a value against the table.
    MethodName = Literal[tuple(METHODS)]
    SweptMethod = Literal[SWEPT]


def trained_among(names: Collection[str]) -> list[str]:
    """Those of `names` that train, in their order."""
    return [name for name in names if get_method(name).trained]


def untrained_beside(names: Collection[str]) -> list[str]:
    """The untrained methods that an experiment with the methods `names` evaluates."""
    return [name for name in UNTRAINED if METHODS[name].always_evaluated or name in names]


def label(name: str) -> str:
    """The name people know a method by; an unknown one keeps its own."""
    return METHODS[name].label if name in METHODS else name


def colour(name: str) -> str:
    """The method's colour in every figure; grey for an unknown one."""
    return METHODS[name].colour if name in METHODS else "#444444"
