"""Does the gap shrink: by step while training, and at evaluation against the starting policy.

In training the figures are over the response tokens of a step that were taught. At evaluation they
are over recorded episodes of the same tasks, so that a method and the warm start are compared task
by task. The mean gap over the student's own tokens estimates minus the divergence between student
and teacher: it is below 0 wherever they differ, and shrinking means that it rises towards 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sdar.methods.roles import START, colour, label
from sdar.records.runs import Run
from sdar.report.answers.resampling import (
    Estimate,
    difference_of_ratios,
    estimate,
    ratio,
    unit_weights,
)
from sdar.report.style import new_figure

BANDS = (("gap_q05", "gap_q95", 0.10), ("gap_q25", "gap_q75", 0.20))
WINDOW = 0.2
"""Share of the steps that counts as the beginning, and as the end."""


@dataclass(frozen=True)
class GapCourse:
    """A method's gap while training; every list has one entry per step, the mean over its runs."""

    method: str
    runs: int
    steps: list[int]
    mean: list[float]
    quantiles: dict[str, list[float]]
    open_share: list[float] | None
    first: float
    last: float
    change: Estimate
    """Mean gap in the last fifth of the steps minus that in the first; interval over steps."""


@dataclass(frozen=True)
class EvaluatedGap:
    """The gap over recorded evaluation tokens. Changes are against the warm start on the same
    tasks, None for the warm start itself; `size` is the mean of |gap|."""

    method: str
    tokens: int
    mean: Estimate
    size: Estimate
    open_share: Estimate
    mean_change: Estimate | None
    size_change: Estimate | None


def gap_courses(runs: Sequence[Run]) -> list[GapCourse]:
    """One per method whose runs recorded a gap, over the steps that all its runs have."""
    courses = []
    for method in dict.fromkeys(run.method for run in runs):
        series = [run.series for run in runs if run.method == method and "gap_mean" in run.series]
        if not series:
            continue
        steps = sorted(set.intersection(*({s for s, _ in one["gap_mean"]} for one in series)))
        if not steps:
            continue
        mean = _average(series, "gap_mean", steps)
        names = [name for band in BANDS for name in band[:2]]
        complete = all(name in one for one in series for name in names)
        window = max(1, round(WINDOW * len(steps)))
        courses.append(
            GapCourse(
                method=method,
                runs=len(series),
                steps=steps,
                mean=mean,
                quantiles={n: _average(series, n, steps) for n in names} if complete else {},
                open_share=_average(series, "gate_active", steps)
                if all("gate_active" in one for one in series)
                else None,
                first=float(np.mean(mean[:window])),
                last=float(np.mean(mean[-window:])),
                change=_change(mean, window),
            )
        )
    return courses


def evaluated_gaps(tokens: pl.DataFrame) -> list[EvaluatedGap]:
    """One per method that plays without the skill, in the order of the table."""
    rows = tokens.filter((pl.col("stage") == "evaluation") & ~pl.col("with_skill"))
    methods = rows["method"].unique(maintain_order=True).to_list()
    gaps = []
    for method in methods:
        mine = _by_task(rows.filter(method=method))
        change = _changes(mine, _by_task(rows.filter(method=START)))
        has_start = method != START and START in methods
        gaps.append(
            EvaluatedGap(
                method=method,
                tokens=int(mine["tokens"].sum()),
                mean=ratio(mine["gap"], mine["tokens"]),
                size=ratio(mine["size"], mine["tokens"]),
                open_share=ratio(mine["open"], mine["tokens"]),
                mean_change=change["gap"] if has_start else None,
                size_change=change["size"] if has_start else None,
            )
        )
    return gaps


def _by_task(rows: pl.DataFrame) -> pl.DataFrame:
    gap, gate = pl.col("gap"), pl.col("gate")
    return (
        rows.group_by("task_id", maintain_order=True)  # else sums are taken in any order
        .agg(
            gap.sum(),
            gap.abs().sum().alias("size"),
            (gate > 0.5).sum().alias("open"),
            pl.len().alias("tokens"),
        )
        .sort("task_id")
    )


def _changes(mine: pl.DataFrame, start: pl.DataFrame) -> dict[str, Estimate | None]:
    both = mine.join(start, on="task_id", suffix="_start").sort("task_id")
    if both.is_empty():
        return {"gap": None, "size": None}
    return {
        name: difference_of_ratios(
            (both[name], both["tokens"]), (both[f"{name}_start"], both["tokens_start"])
        )
        for name in ("gap", "size")
    }


def _average(
    series: Sequence[dict[str, list[tuple[int, float]]]], name: str, steps: Sequence[int]
) -> list[float]:
    curves = [dict(one[name]) for one in series]
    return [float(np.mean([curve[step] for curve in curves])) for step in steps]


def _change(mean: Sequence[float], window: int) -> Estimate:
    first, last = np.asarray(mean[:window]), np.asarray(mean[-window:])
    drawn = unit_weights(window, seed=1) @ last - unit_weights(window, seed=2) @ first
    return estimate(float(last.mean() - first.mean()), drawn / window, window)


def gap_figure(courses: Sequence[GapCourse], evaluated: Sequence[EvaluatedGap]) -> Figure:
    """Left: gap by step with quantile bands. Middle: open gates. Right: gap at evaluation."""
    figure, axes = new_figure(1, 3, (14, 4.6), width_ratios=[1.3, 1, 1])
    for course in courses:
        shade = colour(course.method)
        for low, high, alpha in BANDS:
            if course.quantiles:
                band = course.quantiles[low], course.quantiles[high]
                axes[0].fill_between(course.steps, *band, color=shade, alpha=alpha, linewidth=0)
        style: dict[str, Any] = {"color": shade, "linewidth": 2.4, "label": label(course.method)}
        axes[0].plot(course.steps, course.mean, **style)
        if course.open_share is not None:
            axes[1].plot(course.steps, [100 * share for share in course.open_share], **style)
    for axis, level in ((axes[0], 0.0), (axes[1], 50.0), (axes[2], 0.0)):
        axis.axhline(level, color="#555555", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for axis in axes[:2]:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("training step")
        if axis.lines[1:]:
            axis.legend(loc="best")
        else:
            axis.text(0.5, 0.6, "no method has it", transform=axis.transAxes, ha="center")
    axes[0].set(
        title="Gap in training",
        ylabel="teacher − student log-prob (nats)\nline: mean, bands: 50% and 90% of tokens",
    )
    axes[1].set(title="Open gates in training", ylabel="response tokens with gate > 0.5 (%)")
    _draw_evaluated(axes[2], evaluated)
    return figure


def _draw_evaluated(axis: Axes, evaluated: Sequence[EvaluatedGap]) -> None:
    for row, item in enumerate(evaluated):
        for offset, shown, mark in ((-0.12, item.mean, "o"), (0.12, item.size, "D")):
            axis.errorbar(
                row + offset,
                shown.value,
                yerr=[[max(0, shown.value - shown.low)], [max(0, shown.high - shown.value)]],
                fmt=mark,
                color=colour(item.method),
                markersize=7,
                capsize=3,
            )
    axis.set_xticks(range(len(evaluated)), [label(item.method) for item in evaluated])
    axis.set(title="Gap at evaluation", ylabel="nats per token, 95% interval over tasks")
    axis.set_xlabel("circles: mean gap, diamonds: mean |gap|")
    axis.set_xlim(-0.5, max(0.5, len(evaluated) - 0.5))
    axis.grid(axis="x", visible=False)
