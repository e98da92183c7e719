"""The sweep's heat map: rows retrieval and share, columns gate, cells beta x lambda."""

from itertools import product

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sdar.config.variants import Cell
from sdar.methods.gates import GATES
from sdar.methods.roles import label
from sdar.report.formatting import percent, points
from sdar.report.style import ink, new_figure
from sdar.report.sweep.data import SweepComparison, SweepResult, setting

# Blue, white, orange: legible to people who confuse red and green.
COLOURS = LinearSegmentedColormap.from_list("difference", ["#0072B2", "#ffffff", "#D55E00"])
SMALLEST_RANGE = 0.05
"""The colours span at least +-5 points, so that noise does not glow."""
CELL_INCHES = (1.65, 0.78)
FACET_INCHES = 3.2
"""Wide enough for its title."""


def heatmap(comparison: SweepComparison) -> Figure:
    """Success minus the baseline's in every cell, in points, with its paired interval. A thick
    frame and bold type: the interval excludes 0."""
    cells = list(comparison.cells)
    gates, betas, weights, retrievals, shares = (
        list(dict.fromkeys(axis)) for axis in zip(*cells, strict=True)
    )
    told = list(product(retrievals, shares))
    shown = [one.difference.difference for one in comparison.results.values() if one.difference]
    reach = max([SMALLEST_RANGE, *map(abs, shown)])
    norm = TwoSlopeNorm(0.0, -100 * reach, 100 * reach)
    rows_of = {gate: [None] if _ignores_beta(comparison, gate) else betas for gate in gates}
    facet = max(FACET_INCHES, 0.4 + CELL_INCHES[0] * len(weights))
    width = 1.6 + facet * len(gates)
    height = 1.5 + len(told) * (0.75 + CELL_INCHES[1] * max(map(len, rows_of.values())))
    figure, axes = new_figure(len(told), len(gates), (max(width, 7.5), height))
    for place, axis in enumerate(axes):
        (retrieval, share), gate = told[place // len(gates)], gates[place % len(gates)]
        axis.grid(visible=False)
        axis.tick_params(length=0)
        for spine in axis.spines.values():
            spine.set_visible(False)
        rows = rows_of[gate]
        for y, beta in enumerate(rows):
            for x, weight in enumerate(weights):
                cell = Cell(gate, betas[0] if beta is None else beta, weight, retrieval, share)
                _draw(axis, x, y, comparison.at(cell), norm)
        axis.set(xlim=(-0.5, len(weights) - 0.5), ylim=(len(rows) - 0.5, -0.5))
        axis.set_xticks(range(len(weights)), [f"{weight:g}" for weight in weights])
        axis.set_yticks(range(len(rows)), ["any" if b is None else f"{b:g}" for b in rows])
        title = f"{gate} gate, skill: {retrieval}{_note(comparison, gate, retrieval)}"
        if shares != [1.0]:
            title += f", {100 * share:g}% of turns"
        axis.set_title(title, fontsize=10)
        if place >= len(axes) - len(gates):
            axis.set_xlabel("λ")
        if place % len(gates) == 0:
            axis.set_ylabel("β")
    base = comparison.base
    name = label(base.variant.method)
    figure.suptitle(
        f"{comparison.experiment}: success minus {name}'s (points, 95% interval, paired)\n"
        f"{name}: {percent(base.rate.rate)}% [{percent(base.rate.low)}, {percent(base.rate.high)}]"
        f"; {setting(comparison)}; bold and framed: excludes 0",
        fontsize=11,
    )
    colours = ScalarMappable(norm, COLOURS)
    figure.colorbar(colours, ax=axes, label="points", shrink=0.8, pad=0.02)
    return figure


def _draw(axis: Axes, x: int, y: int, result: SweepResult, norm: TwoSlopeNorm) -> None:
    paired = result.difference
    shade = to_hex(COLOURS(norm(100 * paired.difference))) if paired else "#eeeeee"
    line = 2.6 if result.decided else 0.8
    axis.add_patch(
        Rectangle(
            (x - 0.47, y - 0.45),
            0.94,
            0.9,
            facecolor=shade,
            edgecolor="#1a1a1a" if result.decided else "#bbbbbb",
            linewidth=line,
        )
    )
    text = "baseline"
    if paired is not None:
        text = f"{points(paired.difference)}\n[{points(paired.low)}, {points(paired.high)}]"
    axis.text(
        x,
        y,
        text,
        ha="center",
        va="center",
        fontsize=10,
        fontweight="bold" if result.decided else "normal",
        color=ink(shade),
    )


def _ignores_beta(comparison: SweepComparison, gate: str) -> bool:
    """Whatever beta, the same runs."""
    names_of: dict[tuple[float, str, float], set[str]] = {}
    for cell, variant in comparison.cells.items():
        if cell.gate == gate:
            key = cell.coefficient, cell.retrieval, cell.share
            names_of.setdefault(key, set()).add(variant.name)
    return not GATES[gate].uses_beta and all(len(names) == 1 for names in names_of.values())


def _note(comparison: SweepComparison, gate: str, retrieval: str) -> str:
    """Says so where a facet repeats the runs of another row."""
    first = next(cell.retrieval for cell in comparison.cells)
    repeats = not GATES[gate].reads_teacher and retrieval != first
    return " (same runs)" if repeats else ""
