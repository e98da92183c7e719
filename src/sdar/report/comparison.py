"""The numbers of a comparison, from episode rows and training records. Pure.

A *variant* is a method with the prompt it was evaluated with: Skill-GRPO appears twice, with and
without the skill. Rates average over tasks; several plays of a task (run seeds, evaluation seeds)
are averaged inside it (see `sdar.evaluation.statistics`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sdar.errors import SdarError
from sdar.evaluation.datasets import DatasetRates, dataset_rates
from sdar.evaluation.statistics import (
    Difference,
    Mean,
    Rate,
    mean_over_tasks,
    paired_bootstrap,
    rate_by,
)
from sdar.methods.declarations import METHODS
from sdar.methods.roles import REFERENCE, START, START_WITH_SKILL, UNTRAINED, label
from sdar.records.names import order_types
from sdar.records.runs import Run
from sdar.sums import add_in_order

CONFIDENCE = 0.95
RESAMPLES = 10_000
BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class Variant:
    """A method and whether the skill was in its prompt at evaluation."""

    method: str
    with_skill: bool

    @property
    def usual(self) -> bool:
        """The prompt reported under the method's own name."""
        declared = METHODS.get(self.method)
        return self.with_skill == (declared.evaluate_with_skill if declared else False)

    @property
    def label(self) -> str:
        name = label(self.method)
        return name if self.usual else name + (" + skill" if self.with_skill else " without skill")


@dataclass(frozen=True)
class PanelResult:
    """One variant on one panel. `gain` is over the warm start (None for the warm start)."""

    variant: Variant
    panel: str
    rate: Rate
    by_seed: dict[int, Rate]
    by_type: dict[str, Rate]
    gain: Difference | None
    score: Mean | None
    """The environment's own measure (0..1), where it has one; an episode without any has 0."""
    data_sets: DatasetRates | None
    """Where the panel is made of data sets."""
    turns: float
    invalid_share: float
    inadmissible_share: float
    response_tokens: float
    """Means over episodes: turns, shares of turns, tokens per episode."""


@dataclass(frozen=True)
class Versus:
    """A method against the reference method on one panel."""

    variant: Variant
    reference: Variant
    panel: str
    difference: Difference


@dataclass(frozen=True)
class Cost:
    """Mean seconds per training step of one method, by phase; `teacher_share` of the whole step."""

    method: str
    seconds: dict[str, float]
    steps: int
    runs: int

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @property
    def teacher_share(self) -> float:
        spent = sum(value for phase, value in self.seconds.items() if "teacher" in phase)
        return spent / self.total if self.total else 0.0


@dataclass(frozen=True)
class Comparison:
    """Everything the tables and figures show."""

    experiment: str
    panels: list[str]
    task_types: list[str]
    evaluation_seeds: list[int]
    temperature: float
    results: list[PanelResult]
    privilege: dict[str, Difference]
    """Per panel: the warm start with the skill minus without. What there is to distil."""
    versus: list[Versus]
    costs: list[Cost]
    rounding: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """What the runs were not computed alike with (`records.rounding`)."""

    def result(self, variant: Variant, panel: str) -> PanelResult:
        return next(r for r in self.results if r.variant == variant and r.panel == panel)

    @property
    def variants(self) -> list[Variant]:
        return list(dict.fromkeys(result.variant for result in self.results))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for comparison.json."""
        values = asdict(self)
        if not self.rounding:
            del values["rounding"]
        for item in values["results"]:
            item.update(item.pop("variant"))
            item["by_seed"] = {str(seed): rate for seed, rate in item["by_seed"].items()}
        for item in values["versus"]:
            item.update(item.pop("variant"))
            item["reference"] = item["reference"]["method"]
            item.update(item.pop("difference"))
        for item, cost in zip(values["costs"], self.costs, strict=True):
            item |= {"total": cost.total, "teacher_share": cost.teacher_share}
        values["statistics"] = {
            "confidence": CONFIDENCE,
            "resamples": RESAMPLES,
            "rate": "Wilson score interval over tasks; a task's plays are averaged first",
            "difference": "paired bootstrap over tasks and runs; low_these_runs and "
            "high_these_runs over tasks alone; p_value: sign-flip test over tasks",
        }
        return values


def build_comparison(
    episodes: pl.DataFrame, runs: Sequence[Run], *, experiment: str, temperature: float
) -> Comparison:
    """All rates, differences and costs.

    Raises SdarError when two evaluations of a panel played different tasks: they cannot be paired.
    """
    variants = _variants(episodes, runs)
    panels = sorted(episodes["panel"].unique())
    tables = {
        (variant, panel): _outcomes(episodes, variant, panel)
        for panel in panels
        for variant in variants
    }
    warm, skilled = Variant(START, False), Variant(START_WITH_SKILL, True)
    results = [
        _panel_result(episodes, variant, panel, None if variant == warm else warm, tables)
        for panel in panels
        for variant in variants
    ]
    reference = Variant(REFERENCE, False)
    contenders = [v for v in variants if v.method not in UNTRAINED and v.method != REFERENCE]
    return Comparison(
        experiment=experiment,
        panels=panels,
        task_types=order_types(episodes["task_type"].unique()),
        evaluation_seeds=sorted(episodes["evaluation_seed"].unique()),
        temperature=temperature,
        results=results,
        privilege={panel: _difference(skilled, warm, panel, tables) for panel in panels},
        versus=[
            Versus(variant, reference, panel, _difference(variant, reference, panel, tables))
            for panel in panels
            for variant in contenders
            if reference in variants
        ],
        costs=_costs(runs),
    )


Outcomes = tuple[list[tuple[str, ...]], NDArray[np.float64]]
"""The tasks in order, and success `[tasks, runs]` averaged over evaluation seeds."""
_Tables = dict[tuple[Variant, str], Outcomes]


def _variants(episodes: pl.DataFrame, runs: Sequence[Run]) -> list[Variant]:
    """The untrained ones, then the methods in the configuration's order."""
    order = [*UNTRAINED, *dict.fromkeys(run.method for run in runs)]
    variants = {Variant(*row) for row in episodes.select("method", "with_skill").unique().rows()}
    return sorted(variants, key=lambda v: (order.index(v.method), not v.usual))


def _outcomes(episodes: pl.DataFrame, variant: Variant, panel: str) -> Outcomes:
    outcomes = outcome_table(_rows(episodes, variant, panel), ["task_id"])
    if outcomes is None:
        raise SdarError(
            f"panel {panel}: the runs of {variant.label} did not all play the same tasks; "
            f"evaluate them again with `sdar evaluate --method {variant.method}`"
        )
    return outcomes


def outcome_table(rows: pl.DataFrame, keys: list[str]) -> Outcomes | None:
    """Outcomes of episode rows, whose tasks `keys` name; None where a run lacks a task."""
    table = (
        rows.group_by(*keys, "seed")
        .agg(pl.col("success").cast(pl.Float64).sort().mean())
        .pivot("seed", index=keys, values="success", sort_columns=True)
        .sort(keys)
    )
    values = table.drop(keys).to_numpy().astype(np.float64)
    if values.size == 0 or np.isnan(values).any():
        return None
    return table.select(keys).rows(), values


def _rows(episodes: pl.DataFrame, variant: Variant, panel: str) -> pl.DataFrame:
    return episodes.filter(
        (pl.col("method") == variant.method)
        & (pl.col("with_skill") == variant.with_skill)
        & (pl.col("panel") == panel)
    )


def _difference(a: Variant, b: Variant, panel: str, tables: _Tables) -> Difference:
    (tasks_a, outcomes_a), (tasks_b, outcomes_b) = tables[a, panel], tables[b, panel]
    if tasks_a != tasks_b:
        raise SdarError(
            f"panel {panel}: {a.label} and {b.label} were evaluated on different tasks; evaluate "
            "both again with `sdar evaluate` on the present tasks"
        )
    return paired_difference(outcomes_a, outcomes_b)


def paired_difference(a_TA: NDArray[np.float64], b_TB: NDArray[np.float64]) -> Difference:
    """`paired_bootstrap` as every table of the report has it."""
    settings = {"seed": BOOTSTRAP_SEED, "resamples": RESAMPLES}
    return paired_bootstrap(a_TA, b_TB, **settings, confidence=CONFIDENCE)


def _panel_result(
    episodes: pl.DataFrame, variant: Variant, panel: str, base: Variant | None, tables: _Tables
) -> PanelResult:
    frame = _rows(episodes, variant, panel).sort("seed", "evaluation_seed", "task_id")
    rows = frame.to_dicts()

    def mean(column: str) -> float:
        return float(np.mean(frame[column].to_numpy()))

    return PanelResult(
        variant=variant,
        panel=panel,
        rate=rate_by(rows, ["panel"], CONFIDENCE)[(panel,)],
        by_seed={key[0]: rate for key, rate in rate_by(rows, ["seed"], CONFIDENCE).items()},
        by_type={key[0]: rate for key, rate in rate_by(rows, ["task_type"], CONFIDENCE).items()},
        gain=None if base is None else _difference(variant, base, panel, tables),
        score=_score(rows),
        data_sets=_data_sets(rows),
        turns=mean("turns"),
        invalid_share=mean("invalid_share"),
        inadmissible_share=mean("inadmissible_share"),
        response_tokens=mean("response_tokens"),
    )


def _score(rows: Sequence[dict[str, Any]]) -> Mean | None:
    if all(row["score"] is None for row in rows):
        return None
    plays: dict[str, list[float]] = {}
    for row in rows:
        plays.setdefault(row["task_id"], []).append(row["score"] or 0.0)
    return mean_over_tasks(plays, resamples=RESAMPLES, confidence=CONFIDENCE)


def _data_sets(rows: Sequence[dict[str, Any]]) -> DatasetRates | None:
    if not any(row["data_set"] for row in rows):
        return None
    return dataset_rates(rows, resamples=RESAMPLES, confidence=CONFIDENCE)


def _costs(runs: Sequence[Run]) -> list[Cost]:
    costs = []
    for method in dict.fromkeys(run.method for run in runs):
        timed = [run for run in runs if run.method == method and run.seconds]
        if not timed:
            continue
        phases = list(dict.fromkeys(phase for run in timed for phase in run.seconds))
        seconds = {
            p: add_in_order(run.seconds.get(p, 0.0) for run in timed) / len(timed) for p in phases
        }
        costs.append(Cost(method, seconds, max(run.steps for run in timed), len(timed)))
    return costs
