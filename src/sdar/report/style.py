"""How methods are named and coloured, and how figures are drawn and saved, everywhere alike."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
}
TYPE_LABELS = {
    "pick_and_place_simple": "pick & place",
    "look_at_obj_in_light": "look in light",
    "pick_clean_then_place_in_recep": "clean & place",
    "pick_heat_then_place_in_recep": "heat & place",
    "pick_cool_then_place_in_recep": "cool & place",
    "pick_two_obj_and_place": "pick two & place",
}
_STYLE: Any = {
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "svg.hashsalt": "sdar",  # element ids are functions of the figure: equal figures, equal bytes
    "svg.fonttype": "path",  # looks the same where the font is missing
}


def label(method: str) -> str:
    """The name people know a method by."""
    return _LABELS_AND_COLOURS.get(method, (method, ""))[0]


def colour(method: str) -> str:
    """The method's colour."""
    return _LABELS_AND_COLOURS.get(method, ("", "#444444"))[1]


def ink(background: str) -> str:
    """Black or white, whichever reads better on a `#rrggbb` background."""
    red, green, blue = (int(background[i : i + 2], 16) for i in (1, 3, 5))
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else "#ffffff"


def order_types(names: Iterable[str]) -> list[str]:
    """Task types from simple to long, unknown ones last by name."""
    known = list(TYPE_LABELS)
    return sorted(names, key=lambda n: (known.index(n) if n in known else len(known), n))


def type_label(task_type: str) -> str:
    """A task type in a few words."""
    return TYPE_LABELS.get(task_type, task_type.replace("_", " "))


def new_figure(
    rows: int, columns: int, size: tuple[float, float], **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure in the common style and its axes, row by row. `size` is in inches."""
    # Not a context: legends and titles read the style when they are made, after this returns.
    plt.rcParams.update(_STYLE)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, squeeze=False, layout="constrained", **options
    )
    return figure, list(axes.flat)


def save(figure: Figure, path: Path) -> list[Path]:
    """Write `path`.svg and `path`.png, without dates: equal figures give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path.with_name(f"{path.name}.svg"), path.with_name(f"{path.name}.png")]
    figure.savefig(written[0], metadata={"Date": None, "Creator": "sdar"})
    figure.savefig(written[1], metadata={"Software": "sdar"})
    plt.close(figure)
    return written
