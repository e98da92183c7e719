"""How methods and task types are named, coloured and ordered, everywhere alike. Imports no
matplotlib: pages are written while training, too."""

from collections.abc import Iterable

from sdar.environments.packages import type_labels

# Okabe & Ito's colour-blind-safe colours; a method keeps its colour in every figure.
_LABELS_AND_COLOURS = {
    "warm_start": ("warm start", "#767676"),
    "skill_prompt": ("warm start + skill", "#222222"),
    "grpo": ("GRPO", "#0072B2"),
    "sdar": ("SDAR", "#D55E00"),
    "opsd": ("OPSD", "#CC79A7"),
    "grpo_opsd": ("GRPO+OPSD", "#E69F00"),
    "skill_grpo": ("Skill-GRPO", "#009E73"),
    "skill_sd": ("Skill-SD", "#56B4E9"),
    "rlsd": ("RLSD", "#8C6D31"),
    "gigpo": ("GiGPO", "#3B4BA3"),
    "sdar_gigpo": ("SDAR+GiGPO", "#A32A2A"),
    "reverse_kl": ("reverse KL", "#6A3D9A"),
    "agent_opsd": ("AgentOPSD", "#2F7F7A"),
    "reverse_kl_full": ("full reverse KL", "#B07AD9"),
    "sdar_centred": ("centred SDAR", "#7A9A01"),
    "sdar_adaptive": ("adaptive SDAR", "#F08A6B"),
    "sdar_objective": ("objective-consistent SDAR", "#5C4033"),
}


def label(method: str) -> str:
    """The name people know a method by."""
    return _LABELS_AND_COLOURS.get(method, (method, ""))[0]


def colour(method: str) -> str:
    """The method's colour."""
    return _LABELS_AND_COLOURS.get(method, ("", "#444444"))[1]


def order_types(names: Iterable[str]) -> list[str]:
    """Task types from simple to long, unknown ones last by name."""
    known = list(type_labels())
    return sorted(names, key=lambda n: (known.index(n) if n in known else len(known), n))


def type_label(task_type: str) -> str:
    """A task type in a few words."""
    return type_labels().get(task_type, task_type.replace("_", " "))
