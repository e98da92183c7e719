"""What an experiment has recorded: every evaluation and every training run of an experiment."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from sdar.config import ExperimentConfig, Layout
from sdar.errors import SdarError
from sdar.files import lines
from sdar.files.tables import read_table
from sdar.methods.roles import trained_among, untrained_beside
from sdar.records.tables import EPISODES

# What is drawn, and the key it has in metrics.jsonl.
SERIES = {
    "success": "train/success",
    "gate_mean": "gate/mean",
    "gate_active": "gate/active_ratio",
    "gap_mean": "gap/mean",
    **{f"gap_q{q}": f"gap/q{q}" for q in ("05", "25", "50", "75", "95")},
}


@dataclass(frozen=True)
class Run:
    """One training run's records: series of (step, value), seconds per step by phase, and the lines
    of timings.jsonl."""

    method: str
    seed: int
    folder: Path
    series: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    timings: list[dict[str, Any]] = field(default_factory=list)


def evaluations(config: ExperimentConfig, layout: Layout) -> list[tuple[str, int]]:
    """(method, seed) of every evaluation of the experiment, untrained methods first.

    Those are one set of weights, whatever the run seed: one evaluation of each is read, that of
    seed 0 (or, where it is absent, of a seed of the experiment).
    """
    listed = []
    for method in untrained_beside(config.methods):
        seeds = [0, *config.seeds]
        there = (s for s in seeds if (layout.evaluation(method, s) / "episodes.parquet").is_file())
        listed.append((method, next(there, seeds[0])))
    return listed + [(m, seed) for m in trained_among(config.methods) for seed in config.seeds]


def read_episodes(config: ExperimentConfig, layout: Layout) -> pa.Table:
    """Episode rows of all evaluations. Raises SdarError naming the first that is missing."""
    tables = []
    for method, seed in evaluations(config, layout):
        path = layout.evaluation(method, seed) / "episodes.parquet"
        remedy = f"make it with `sdar evaluate --method {method} --seed {seed}`"
        if not path.is_file():
            raise SdarError(f"{path}: no such evaluation; {remedy}")
        tables.append(read_table(path, EPISODES, remedy))
    return pa.concat_tables(tables)


def read_run(layout: Layout, method: str, seed: int) -> Run:
    """The records of one training run; raises SdarError when it has none."""
    folder = layout.run(method, seed)
    metrics, timings = _steps(folder / "metrics.jsonl"), _steps(folder / "timings.jsonl")
    remedy = f"train the run with `sdar train --method {method} --seed {seed}`"
    if not metrics:
        raise SdarError(f"{folder / 'metrics.jsonl'}: missing or empty; {remedy}")
    if len(timings) != len(metrics):
        raise SdarError(
            f"{folder / 'timings.jsonl'}: {len(timings)} steps, where metrics.jsonl beside it has "
            f"{len(metrics)}; {remedy}"
        )
    series: dict[str, list[tuple[int, float]]] = {}
    for name, key in SERIES.items():
        points = [(r["step"], r[key]) for r in metrics if r.get(key) is not None]
        if points:
            series[name] = points
    counts = ("train/samples", "train/response_tokens")
    if all(key in record for record in metrics for key in counts):
        product = [(r["step"], r[counts[0]] * r[counts[1]]) for r in metrics]
        series["response_tokens"] = product
    return Run(method, seed, folder, series, seconds_by_phase(timings), len(metrics), timings)


def _steps(path: Path) -> list[dict[str, Any]]:
    """The records of steps 0, 1, 2, ... of a file."""
    records = lines.read(path)
    if [record["step"] for record in records] != list(range(len(records))):
        raise SdarError(
            f"{path}: its steps are not 0, 1, 2, ..., each once; restore the file, or remove the "
            "run's folder and train again"
        )
    return records


def read_runs(config: ExperimentConfig, layout: Layout) -> list[Run]:
    """All training runs, by method and seed."""
    methods = trained_among(config.methods)
    return [read_run(layout, method, seed) for method in methods for seed in config.seeds]


def seconds_by_phase(timings: list[dict[str, Any]]) -> dict[str, float]:
    """Mean seconds per step of each `<phase>_s` key (a phase absent from a step cost nothing).

    `total_s` and `step_s` are the whole step: what the phases leave of it is `other`.
    """
    if not timings:
        return {}
    sums: dict[str, float] = {}
    for record in timings:
        for key, value in record.items():
            if key.endswith("_s") and isinstance(value, int | float):
                phase = key.removesuffix("_s").rsplit("/", 1)[-1]
                sums[phase] = sums.get(phase, 0.0) + value
    means = {phase: total / len(timings) for phase, total in sums.items()}
    whole = [means.pop(name) for name in ("total", "step") if name in means]
    if whole:
        other = max(whole) - sum(means.values())
        if other > 0.001 * max(whole):
            means["other"] = other
    return means
