"""What the teacher's pass cost: seconds and tokens of a training step, phase by phase.

Seconds are the runs' own clocks (`timings.jsonl`). Tokens are those a phase puts through the model:
prompts and responses, the teacher's with its own, longer prompts. The update's tokens go through
forward and backward, all others through forward alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdar.methods.roles import label
from sdar.records.runs import Run
from sdar.report.answers.resampling import Estimate, ratio
from sdar.report.phases import order_phases, phase_colours, phase_name
from sdar.report.style import ink, new_figure

READING = ("generation", "old", "reference", "update")
"""Phases that put every prompt and response of the step through the model once."""


@dataclass(frozen=True)
class TeacherCost:
    """Means over the steps of all runs of a method; shares are of the whole step."""

    method: str
    runs: int
    steps: int
    seconds: dict[str, float]
    tokens: dict[str, float]
    seconds_share: Estimate
    """Of the teacher's pass; interval over steps. 0 where there is no teacher."""
    tokens_share: Estimate
    prompt_ratio: float | None
    """The teacher's prompt tokens by the student's of the same turns."""

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def total_tokens(self) -> float:
        return sum(self.tokens.values())


def teacher_costs(runs: Sequence[Run]) -> list[TeacherCost]:
    """One per method that has timings."""
    costs = []
    for method in dict.fromkeys(run.method for run in runs):
        timed = [run for run in runs if run.method == method and run.timings]
        if timed:
            costs.append(_cost(method, timed))
    return costs


def _cost(method: str, runs: Sequence[Run]) -> TeacherCost:
    lines = [
        (line, responses.get(line["step"], 0.0))
        for run, responses in ((run, dict(run.series.get("response_tokens", ()))) for run in runs)
        for line in run.timings
    ]
    seconds = [phase_seconds(line) for line, _ in lines]
    tokens = [phase_tokens(line, responses) for line, responses in lines]
    taught = [(line, responses) for line, responses in lines if line.get("teacher_s")]
    # Runs of earlier versions taught every turn, and have no counts of those that were.
    student_prompts = sum(
        line.get("taught_prompt_tokens", line.get("tokens", 0) - responses)
        for line, responses in taught
    )
    teacher_prompts = sum(line.get("teacher_prompt_tokens", 0) for line, _ in taught)
    return TeacherCost(
        method=method,
        runs=len(runs),
        steps=len(seconds),
        seconds=_means(seconds),
        tokens=_means(tokens),
        seconds_share=_share(seconds),
        tokens_share=_share(tokens),
        prompt_ratio=teacher_prompts / student_prompts if student_prompts else None,
    )


def phase_seconds(line: dict[str, float]) -> dict[str, float]:
    """Seconds by phase of one line of timings.jsonl; what the phases leave of `total_s` is
    `other`."""
    phases = {
        key.removesuffix("_s"): float(value)
        for key, value in line.items()
        if key.endswith("_s") and isinstance(value, int | float)
    }
    whole = phases.pop("total", None)
    if whole is not None:
        rest = whole - sum(phases.values())
        if rest > 0.001 * whole:
            phases["other"] = rest
    return phases


def phase_tokens(line: dict[str, float], response_tokens: float) -> dict[str, float]:
    """Tokens through the model by phase of one line; `response_tokens` are those of the step."""
    read = {phase: float(line.get("tokens", 0)) for phase in READING if line.get(f"{phase}_s")}
    if line.get("teacher_s"):
        every = line.get("teacher_prompt_tokens", 0) + response_tokens
        read["teacher"] = line.get("teacher_tokens", every)
    return read


def _means(lines: Sequence[dict[str, float]]) -> dict[str, float]:
    phases = order_phases({phase for line in lines for phase in line})
    return {p: float(np.mean([line.get(p, 0.0) for line in lines])) for p in phases}


def _share(lines: Sequence[dict[str, float]]) -> Estimate:
    whole = [sum(line.values()) for line in lines]
    if not sum(whole):
        return Estimate(0.0, 0.0, 0.0, len(lines))
    return ratio([line.get("teacher", 0.0) for line in lines], whole)


def teacher_cost_figure(costs: Sequence[TeacherCost]) -> Figure:
    """Stacked bars per method: seconds and tokens per step by phase, and the teacher's share."""
    figure, axes = new_figure(1, 2, (14, 2.4 + 0.75 * max(1, len(costs))), sharey=True)
    shades = phase_colours({phase for cost in costs for phase in cost.seconds})
    seconds = [cost.seconds for cost in costs]
    tokens = [{k: v / 1000 for k, v in cost.tokens.items()} for cost in costs]
    _bars(axes[0], seconds, [cost.seconds_share for cost in costs], shades, "s")
    _bars(axes[1], tokens, [cost.tokens_share for cost in costs], shades, "k")
    axes[0].set_yticks(range(len(costs)), [label(cost.method) for cost in costs])
    axes[0].set(title="Seconds", xlabel="mean seconds per training step")
    axes[1].set(title="Tokens", xlabel="thousand tokens through the model per training step")
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return figure


def _bars(
    axis: Axes,
    lines: Sequence[dict[str, float]],
    shares: Sequence[Estimate],
    shades: dict[str, str],
    unit: str,
) -> None:
    totals = [sum(line.values()) for line in lines]
    widest = max(totals, default=1.0)
    left = np.zeros(len(lines))
    for phase, shade in shades.items():
        values = np.array([line.get(phase, 0.0) for line in lines])
        if not values.any():
            continue
        axis.barh(range(len(lines)), values, 0.6, left=left, color=shade, label=phase_name(phase))
        look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 10, "color": ink(shade)}
        for row, value in enumerate(values):
            if value > 0.06 * widest:
                axis.text(left[row] + value / 2, row, f"{value:.1f}", **look)
        left += values
    for row, (total, share) in enumerate(zip(totals, shares, strict=True)):
        note = f" {total:.1f} {unit}"
        if share.value:
            note += f", teacher {100 * share.value:.0f}%"
        axis.text(total, row, note, va="center", fontsize=10)
    axis.set_xlim(0, 1.3 * widest)
    axis.grid(axis="y", visible=False)
