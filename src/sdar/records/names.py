"""How task types are named and ordered in every table, figure and page."""

from collections.abc import Iterable

from sdar.environments.packages import type_labels
from sdar.escaping import short


def order_types(names: Iterable[str]) -> list[str]:
    """Task types from simple to long, unknown ones last by name."""
    known = list(type_labels())
    return sorted(names, key=lambda n: (known.index(n) if n in known else len(known), n))


def type_label(task_type: str) -> str:
    """A task type in a few words."""
    return type_labels().get(task_type) or short(task_type.replace("_", " "))
