"""What the teacher's tokens bought: success of each variant against what its teacher read."""

from matplotlib.figure import Figure

from sdar.config.variants import Cell, SweepVariant
from sdar.methods.roles import colour, label
from sdar.report.style import new_figure
from sdar.report.sweep.data import SweepComparison, setting

MOST_NAMED = 12
"""More points than this stand without names, which would lie over each other."""


def tokens_text(tokens: float | None) -> str:
    """`1.24 M`, `35 k` or `0`; a dash where they were not counted."""
    if tokens is None:
        return "–"
    if tokens >= 999_500:
        return f"{tokens / 1e6:.2f} M"
    return f"{tokens / 1e3:.0f} k" if tokens >= 1000 else f"{tokens:.0f}"


def teacher_tokens_figure(comparison: SweepComparison) -> Figure:
    """A point a variant: the teacher's tokens in a run, and success with its interval. The
    baseline, which has no teacher, is a line with a band."""
    figure, (axis,) = new_figure(1, 1, (8.5, 5.2))
    base, method = comparison.base.rate, comparison.base.variant.method
    axis.axhspan(100 * base.low, 100 * base.high, color=colour(method), alpha=0.12, linewidth=0)
    axis.axhline(100 * base.rate, color=colour(method), linewidth=1.8, label=label(method))
    counted = [
        (one.teacher_tokens / 1e6, one)
        for one in comparison.results.values()
        if one.teacher_tokens is not None and one.difference is not None
    ]
    for millions, one in sorted(counted, key=lambda pair: (pair[0], pair[1].variant.name)):
        rate = one.rate
        axis.errorbar(
            millions,
            100 * rate.rate,
            yerr=[[100 * (rate.rate - rate.low)], [100 * (rate.high - rate.rate)]],
            fmt="o",
            color=colour(one.variant.method),
            markersize=7,
            capsize=3,
        )
        if len(counted) <= MOST_NAMED:
            axis.annotate(
                _told_apart_by(one.variant, comparison),
                (millions, 100 * rate.high),
                xytext=(0, 4),
                textcoords="offset points",
                ha="center",
                fontsize=9,
            )
    if not counted:
        axis.text(0.5, 0.1, "no run counted them", transform=axis.transAxes, ha="center")
    axis.margins(x=0.15, y=0.12)
    axis.legend(loc="lower right")
    axis.set_xlim(left=0)
    axis.set(
        title=f"{comparison.experiment}: success against the teacher's tokens",
        xlabel="million tokens that the teacher read in a training run",
        ylabel=f"success (%, 95% interval)\n{setting(comparison)}",
    )
    return figure


def _told_apart_by(variant: SweepVariant, comparison: SweepComparison) -> str:
    """`share 0.25`: what the sweep varies, and the variant's values of it."""
    varied = [
        name
        for place, name in enumerate(Cell._fields)
        if len({cell[place] for cell in comparison.cells}) > 1
    ]
    values = variant.cell._asdict() if variant.cell is not None else {}
    told = [f"{name} {_short(values[name])}" for name in varied if name in values]
    return ", ".join(told) or variant.name


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
