"""Where the gate puts its mass: on which tokens, where in a response, in which episodes.

Mass is the sum of the gate, of its size where it is a weight of either sign (`sdar_centred`). A
gate of .5 says that the skill makes no difference, so a part's share of the mass is read beside its
share of the tokens: what is above is where the teacher approves.
Episodes played with the skill are left out, for their tokens are the teacher's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdar.environments.packages import type_labels
from sdar.methods.roles import colour, label
from sdar.records.names import order_types, type_label
from sdar.records.token_classes import CLASSES
from sdar.report.answers.resampling import Estimate, ratio
from sdar.report.style import new_figure

EDGES = (0, 4, 8, 16, 32, 64, 128, 256, 512)
"""First positions of the bins, as in the metrics of training."""
OUTCOMES = ("solved", "failed")
SMALLEST_PART = 0.01
"""Of a method's tokens: a part below it is counted, but neither drawn nor spoken of."""


@dataclass(frozen=True)
class Part:
    """Some of the tokens: how many, and what of all tokens and of the whole mass they are."""

    tokens: int
    token_share: float
    mass_share: Estimate
    mean_gate: Estimate


@dataclass(frozen=True)
class GateMass:
    """The gate over the recorded tokens of one method at one stage, divided in four ways."""

    method: str
    stage: str
    tokens: int
    episodes: int
    mean_gate: Estimate
    by_class: dict[str, Part]
    by_position: dict[str, Part]
    by_outcome: dict[str, Part]
    by_type: dict[str, Part]

    @property
    def label(self) -> str:
        return f"{label(self.method)}, {'training' if self.stage == 'training' else 'evaluated'}"


def gate_masses(tokens: pl.DataFrame) -> list[GateMass]:
    """One per method and stage with gates, training first; methods in the order of the table."""
    with_gate = tokens.filter(pl.col("gate").is_not_null() & ~pl.col("with_skill"))
    masses = []
    for stage in ("training", "evaluation"):
        of_stage = with_gate.filter(stage=stage)
        for method in of_stage["method"].unique(maintain_order=True):
            masses.append(_gate_mass(of_stage.filter(method=method), method, stage))
    return masses


def _gate_mass(rows: pl.DataFrame, method: str, stage: str) -> GateMass:
    outcome = [OUTCOMES[0] if won else OUTCOMES[1] for won in rows["success"]]
    places = np.searchsorted(EDGES, rows["position"].to_numpy(), side="right") - 1
    return GateMass(
        method=method,
        stage=stage,
        tokens=rows.height,
        episodes=rows.select("seed", "episode").n_unique(),
        mean_gate=_mean(rows),
        by_class=parts(rows, rows["token_class"].to_list(), CLASSES),
        by_position=parts(rows, [_bin(place) for place in places], [*map(_bin, range(len(EDGES)))]),
        by_outcome=parts(rows, outcome, OUTCOMES),
        by_type=parts(rows, rows["task_type"].to_list(), order_types(rows["task_type"].unique())),
    )


def parts(rows: pl.DataFrame, names: Sequence[str], order: Sequence[str]) -> dict[str, Part]:
    """The tokens (with `gate` and `task_id`) divided by `names`, one per token; empty parts are
    left out. Intervals are over tasks."""
    tasks, task = np.unique(rows["task_id"].to_numpy(), return_inverse=True)
    gate = rows["gate"].to_numpy()
    name_of = np.asarray(names)

    def by_task(values: np.ndarray) -> np.ndarray:
        return np.bincount(task, weights=values, minlength=len(tasks))

    mass = by_task(np.abs(gate))
    parts_by_name = {}
    for name in order:
        inside = (name_of == name).astype(np.float64)
        count = int(inside.sum())
        if count:
            mass_inside = by_task(np.abs(gate) * inside)
            parts_by_name[name] = Part(
                tokens=count,
                token_share=count / rows.height,
                # A gate may be shut on every recorded token; then no part holds anything.
                mass_share=ratio(mass_inside, mass if mass.any() else by_task(np.ones_like(gate))),
                mean_gate=ratio(by_task(gate * inside), by_task(inside)),
            )
    return parts_by_name


def gate_mass_figure(masses: Sequence[GateMass]) -> Figure:
    """Shares of the mass against shares of the tokens by token class and outcome, and the mean gate
    by class, position, outcome and task type. One colour per method; filled in training, hollow
    or pale at evaluation."""
    figure, axes = new_figure(2, 3, (16, 9.2))
    _shares(axes[0], masses, "by_class", "Mass by token class")
    _means(axes[1], masses, "by_class", "Gate by token class")
    _means(axes[2], masses, "by_position", "Gate by position in the response")
    _shares(axes[3], masses, "by_outcome", "Mass by outcome of the episode")
    _means(axes[4], masses, "by_outcome", "Gate by outcome of the episode")
    _means(axes[5], masses, "by_type", "Gate by task type")
    axes[2].set_xlabel("tokens from the start")
    axes[5].tick_params(axis="x", labelrotation=25)
    handles, labels = axes[5].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return figure


def common_parts(masses: Sequence[GateMass], division: str) -> list[str]:
    """The parts of a division that are drawn: at least 1% of some method's tokens, in order."""
    seen = {
        name
        for mass in masses
        for name, part in getattr(mass, division).items()
        if part.token_share >= SMALLEST_PART
    }
    return sorted(seen, key=_order)


def _shares(axis: Axes, masses: Sequence[GateMass], division: str, title: str) -> None:
    names = common_parts(masses, division)
    for row, mass in enumerate(masses):
        for place, name in enumerate(names):
            part = getattr(mass, division).get(name)
            if part is None:
                continue
            x = place + _offset(row, len(masses))
            share = part.mass_share
            axis.bar(
                x,
                100 * share.value,
                0.8 / len(masses),
                color=colour(mass.method),
                alpha=0.85 if mass.stage == "training" else 0.4,
                yerr=_ends(share, 100),
                error_kw={"elinewidth": 1.2, "capsize": 2},
            )
            half = 0.38 / len(masses)
            axis.hlines(100 * part.token_share, x - half, x + half, color="#111111", linewidth=2)
    axis.set_xticks(range(len(names)), names)
    axis.set(title=title, ylabel="share of the gate's mass (%)")
    axis.set_xlabel("black lines: share of the tokens")
    axis.grid(axis="x", visible=False)


def _means(axis: Axes, masses: Sequence[GateMass], division: str, title: str) -> None:
    names = common_parts(masses, division)
    for row, mass in enumerate(masses):
        divided = getattr(mass, division)
        there = [name for name in names if name in divided]
        means = [divided[name].mean_gate for name in there]
        axis.errorbar(
            [names.index(name) + _offset(row, len(masses), 0.5) for name in there],
            [mean.value for mean in means],
            yerr=np.hstack([_ends(mean, 1) for mean in means]) if means else None,
            fmt="o-" if division == "by_position" else "o",
            color=colour(mass.method),
            markerfacecolor=colour(mass.method) if mass.stage == "training" else "white",
            linewidth=1.6,
            capsize=2.5,
            label=mass.label,
        )
    axis.axhline(0.5, color="#555555", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axis.set_xticks(range(len(names)), [type_label(name) for name in names])
    axis.set(title=title, ylabel="mean gate, 95% interval over tasks")
    axis.grid(axis="x", visible=False)


def _order(name: str) -> tuple[int, str]:
    known = [*OUTCOMES, *CLASSES, *map(_bin, range(len(EDGES))), *type_labels()]
    return (known.index(name) if name in known else len(known), name)


def _bin(place: int) -> str:
    first = EDGES[place]
    return f"{first}–{EDGES[place + 1] - 1}" if place + 1 < len(EDGES) else f"{first}+"


def _mean(rows: pl.DataFrame) -> Estimate:
    return parts(rows, ["all"] * rows.height, ["all"])["all"].mean_gate


def _offset(row: int, rows: int, width: float = 0.8) -> float:
    return width * ((row + 0.5) / rows - 0.5)


def _ends(estimate: Estimate, scale: float) -> np.ndarray:
    """Lengths of an error bar, `[2, 1]`; percentile intervals need not hold the value itself."""
    lengths = [estimate.value - estimate.low, estimate.high - estimate.value]
    return scale * np.clip(lengths, 0, None)[:, None]
