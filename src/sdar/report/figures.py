"""Figures of a comparison. Each function draws one figure from plain numbers and returns it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sdar.escaping import short
from sdar.methods.roles import START, START_WITH_SKILL, colour, label
from sdar.records.names import type_label
from sdar.records.runs import Run
from sdar.report.comparison import Comparison, Variant
from sdar.report.style import new_figure

SMOOTHING = 5
"""Steps of the centred running mean of the thick lines."""


def learning_curves(runs: Sequence[Run], comparison: Comparison) -> Figure:
    """Left: sampled success while training. Right: evaluated success before and after."""
    figure, (curves, panel_axes) = new_figure(1, 2, (12, 4.8), width_ratios=[1.5, 1])
    _lines(curves, runs, "success", scale=100)
    curves.set(title="Training", xlabel="training step", ylabel="success of sampled episodes (%)")
    curves.set_ylim(0, _ceiling(curves.get_ylim()[1]))
    curves.legend(loc="upper left", title=_legend_note(runs))
    _before_after(panel_axes, comparison)
    return figure


def gate_curves(runs: Sequence[Run]) -> Figure:
    """Gate mean, share of open gates and mean gap by step, for the methods that have them."""
    figure, axes = new_figure(1, 3, (13, 4.2))
    titles = [
        ("gate_mean", "Gate", "mean gate", 1, 0.5),
        ("gate_active", "Open gates", "response tokens with gate > 0.5 (%)", 100, 50.0),
        ("gap_mean", "Gap", "mean teacher − student log-prob (nats)", 1, 0.0),
    ]
    for axis, (series, title, ylabel, scale, neutral) in zip(axes, titles, strict=True):
        drawn = _lines(axis, runs, series, scale=scale)
        axis.axhline(neutral, color="#555555", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axis.set(title=title, xlabel="training step", ylabel=ylabel)
        if not drawn:
            axis.text(0.5, 0.6, "not recorded", transform=axis.transAxes, ha="center")
    axes[0].legend(loc="best", title="dashed: teacher = student")
    return figure


def success_by_panel(comparison: Comparison) -> Figure:
    """Success of every variant with its interval, one column per panel; ticks: single runs."""
    variants = comparison.variants[::-1]
    size = (2.2 + 4.4 * len(comparison.panels), 1.4 + 0.5 * len(variants))
    figure, axes = new_figure(1, len(comparison.panels), size, sharey=True)
    for axis, panel in zip(axes, comparison.panels, strict=True):
        for row, variant in enumerate(variants):
            result = comparison.result(variant, panel)
            rate, shade = result.rate, colour(variant.method)
            ends = [100 * rate.low, 100 * rate.high]
            axis.plot(ends, [row, row], color=shade, linewidth=2.5, clip_on=False)
            axis.plot(100 * rate.rate, row, "o", color=shade, markersize=8, clip_on=False)
            if len(result.by_seed) > 1:
                singles = [100 * single.rate for single in result.by_seed.values()]
                axis.plot(singles, [row - 0.22] * len(singles), "|", color=shade, markersize=8)
            axis.annotate(
                f"{100 * rate.rate:.1f}",
                (100 * rate.rate, row),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=10,
            )
        tasks = comparison.result(variants[0], panel).rate.tasks
        axis.set(
            title=f"{short(panel)} ({tasks} tasks)", xlabel="success (%), 95% interval over tasks"
        )
        axis.set_xlim(-3, 103)
        axis.set_ylim(-0.6, len(variants) - 0.4)
        axis.set_yticks(range(len(variants)), [variant.label for variant in variants])
        axis.grid(axis="y", visible=False)
    if any(len(result.by_seed) > 1 for result in comparison.results):
        figure.supxlabel("ticks below a line: its single runs", fontsize=10, color="#555555")
    return figure


def success_by_type(comparison: Comparison) -> Figure:
    """Success per task type with intervals, one row of bars per panel."""
    variants = [variant for variant in comparison.variants if variant.usual]
    types = comparison.task_types
    rows = len(comparison.panels)
    width = 0.84 / len(variants)
    figure, axes = new_figure(rows, 1, (max(8.0, 2.0 * len(types)), 3.3 * rows + 0.7), sharey=True)
    for axis, panel in zip(axes, comparison.panels, strict=True):
        counts: dict[str, int] = {}
        for place, variant in enumerate(variants):
            by_type = comparison.result(variant, panel).by_type
            counts |= {name: rate.tasks for name, rate in by_type.items()}
            shown = [name for name in types if name in by_type]
            x = np.array([types.index(name) for name in shown]) + width * (
                place - (len(variants) - 1) / 2
            )
            rates = np.array([by_type[name].rate for name in shown])
            low = rates - [by_type[name].low for name in shown]
            high = np.array([by_type[name].high for name in shown]) - rates
            axis.bar(
                x,
                100 * rates,
                width * 0.9,
                **_bar_look(variant),
                label=variant.label,
                yerr=100 * np.clip([low, high], 0, None),
                error_kw={"elinewidth": 1.2, "ecolor": "#1a1a1a", "capsize": 2.5},
            )
        ticks = [f"{type_label(name)}\n{counts.get(name, 0)} tasks" for name in types]
        axis.set_xticks(range(len(types)), ticks)
        axis.set(title=short(panel), ylabel="success (%), 95% interval", ylim=(0, 100))
        axis.grid(axis="x", visible=False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(6, len(labels)))
    return figure


def running_mean(values: Sequence[float], width: int = SMOOTHING) -> np.ndarray:
    """Centred mean over up to `width` values, fewer at the ends; never shifts a curve."""
    half = width // 2
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return np.array([np.mean(window) for window in windows])


def _lines(axis: Axes, runs: Sequence[Run], series: str, *, scale: float) -> bool:
    """Thin: every run. Thick: the mean over runs at the steps all have, smoothed."""
    drawn = False
    for method in dict.fromkeys(run.method for run in runs):
        recorded = [run.series for run in runs if run.method == method]
        curves = [dict(of_run[series]) for of_run in recorded if series in of_run]
        if not curves:
            continue
        drawn = True
        for curve in curves:
            values = scale * np.array(list(curve.values()))
            axis.plot(list(curve), values, color=colour(method), linewidth=0.9, alpha=0.4)
        steps = sorted(set.intersection(*map(set, curves)))
        mean = [scale * float(np.mean([curve[step] for curve in curves])) for step in steps]
        look: dict[str, Any] = {"color": colour(method), "linewidth": 2.6}
        axis.plot(steps, running_mean(mean), **look, label=label(method))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return drawn


def _bar_look(variant: Variant) -> dict[str, Any]:
    """The untrained policies are pale, so that the trained ones and all intervals stand out."""
    if variant.method == START:
        return {"color": "#c9c9c9"}
    if variant.method == START_WITH_SKILL:
        return {"color": "#ffffff", "edgecolor": "#777777", "hatch": "////", "linewidth": 0.8}
    return {"color": colour(variant.method), "alpha": 0.85}


def _legend_note(runs: Sequence[Run]) -> str:
    seeds = len({run.seed for run in runs})
    if seeds == 1:
        return f"thin: the run\nthick: its mean over {SMOOTHING} steps"
    return f"thin: each of {seeds} runs\nthick: mean over runs, {SMOOTHING} steps"


def _ceiling(top: float) -> float:
    return float(min(100.0, 10 * np.ceil(1.1 * top / 10)))


def _before_after(axis: Axes, comparison: Comparison) -> None:
    """Warm start, then every trained method, with intervals; one group per panel."""
    shown = [v for v in comparison.variants if v.usual and v.method != START_WITH_SKILL]
    skilled = Variant(START_WITH_SKILL, True)
    gap = 1.0
    ticks, names = [], []
    for group, panel in enumerate(comparison.panels):
        start = group * (len(shown) + gap)
        for place, variant in enumerate(shown):
            rate = comparison.result(variant, panel).rate
            axis.errorbar(
                start + place,
                100 * rate.rate,
                yerr=[[100 * (rate.rate - rate.low)], [100 * (rate.high - rate.rate)]],
                fmt="o",
                color=colour(variant.method),
                markersize=8,
                linewidth=2,
                capsize=3,
                clip_on=False,
                label=variant.label if group == 0 else None,
            )
        level = 100 * comparison.result(skilled, panel).rate.rate
        axis.hlines(
            level,
            start - 0.4,
            start + len(shown) - 0.6,
            color=colour(START_WITH_SKILL),
            linestyle=(0, (4, 3)),
            linewidth=1.3,
            label=skilled.label if group == 0 else "_repeated",
        )
        ticks.append(start + (len(shown) - 1) / 2)
        names.append(f"{short(panel)}\n{comparison.result(shown[0], panel).rate.tasks} tasks")
    axis.set_xticks(ticks, names)
    axis.set(title="Evaluation", ylabel="success (%), 95% interval", ylim=(0, 100))
    axis.grid(axis="x", visible=False)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
