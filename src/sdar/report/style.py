"""The common style of figures, and how they are saved."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
    "text.parse_math": False,  # a $ in a name is a $
}


def ink(background: str) -> str:
    """Black or white, whichever reads better on a `#rrggbb` background."""
    red, green, blue = (int(background[i : i + 2], 16) for i in (1, 3, 5))
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else "#ffffff"


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
    _settle(figure)
    written = [path.with_name(f"{path.name}.svg"), path.with_name(f"{path.name}.png")]
    figure.savefig(written[0], metadata={"Date": None, "Creator": "sdar"})
    figure.savefig(written[1], metadata={"Software": "sdar"})
    plt.close(figure)
    return written


def _settle(figure: Figure) -> None:
    """Lay the figure out once and round the places of its axes.

    The layout's solver orders its unknowns by memory address: the last bits of what it finds, and
    with them the ids of clip paths in SVG, differ from call to call.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(place, 6) for place in axes.get_position().bounds)
        axes.set_position((left, bottom, width, height))
