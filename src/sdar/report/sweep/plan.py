"""What a sweep will run, and how long it takes judging by what this experiment has run so far."""

import csv
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from sdar.config import ExperimentConfig, Layout
from sdar.config.variants import (
    SweepVariant,
    sweep_cells,
    sweep_panels,
    sweep_seeds,
    sweep_variants,
)
from sdar.files import lines
from sdar.files.whole import read_json
from sdar.methods.gates import GATES
from sdar.report.formatting import duration, markdown_table


@dataclass(frozen=True)
class Pace:
    """Mean seconds so far per training step, and per panel evaluated; None: none is timed."""

    step: float | None
    panel: float | None


def plan_text(config: ExperimentConfig, layout: Layout) -> str:
    """The variants as a table, the number of jobs, and the time they will take in all."""
    cells, variants, seeds = sweep_cells(config), sweep_variants(config), sweep_seeds(config)
    panels = sweep_panels(config)
    steps = config.sweep.steps or config.training.steps
    rows, left = [], len(variants) * len(seeds)
    for variant in variants:
        filled = sum(filling == variant for filling in cells.values())
        done = sum((_run(layout, variant, seed) / "policy").is_dir() for seed in seeds)
        left -= done
        what = variant.cell
        if what is None:
            values = ["", "", "0", ""]
        else:
            beta = f"{what.beta:g}" if GATES[what.gate].uses_beta else "any"
            skill = what.retrieval if GATES[what.gate].reads_teacher else "any"
            values = [what.gate, beta, f"{what.coefficient:g}", skill]
        rows.append([variant.name, variant.method, *values, str(filled), f"{done} of {len(seeds)}"])
    header = ["variant", "method", "gate", "beta", "lambda", "retrieval", "cells", "trained"]
    jobs = len(variants) * len(seeds)
    return "\n".join(
        [
            markdown_table(header, rows),
            "",
            f"{len(cells)} cells, {len(variants)} variants x {len(seeds)} seeds = {jobs} trainings "
            f"of {steps} steps, and as many evaluations on {', '.join(panels)}.",
            _time(layout, jobs, left, steps, len(panels)),
        ]
    )


def measured_pace(layout: Layout) -> Pace:
    """From `timings.jsonl` of the experiment's runs and the benchmarks of its evaluations."""
    seconds = [
        record["total_s"]
        for path in sorted(layout.runs.glob("**/seed-*/timings.jsonl"))
        for record in lines.read(path)
        if "total_s" in record
    ]
    logs = layout.root / "logs" / layout.experiment / "benchmarks"
    evaluations = []
    for path in sorted(logs.glob("evaluate*.tsv")):
        evaluated = _evaluated_panels(layout, path.stem)
        if evaluated:
            with path.open(encoding="utf-8") as file:
                spent = [float(row["s"]) for row in csv.DictReader(file, delimiter="\t")]
            evaluations += [one / evaluated for one in spent]
    return Pace(fmean(seconds) if seconds else None, fmean(evaluations) if evaluations else None)


def _evaluated_panels(layout: Layout, stem: str) -> int:
    """How many panels the evaluation behind a benchmark file played, 0 where it is gone."""
    name, _, seed = stem.removeprefix("evaluate-").rpartition("-")
    if not seed.isdigit():
        return 0
    return len(read_json(layout.evaluation(name, int(seed)) / "summary.json").get("panels", []))


def _time(layout: Layout, jobs: int, left: int, steps: int, panels: int) -> str:
    if left == 0:
        return "All are trained."
    pace = measured_pace(layout)
    if pace.step is None:
        return (
            f"How long it takes is not known: no training of {layout.experiment} is timed under "
            f"{layout.root / 'runs'} yet. Train one (`sdar train --method sdar`), then ask again."
        )
    one = steps * pace.step + panels * (pace.panel or 0.0)
    parts = [f"a step took {duration(pace.step)}"]
    if pace.panel is None:
        parts.append("evaluations are not counted: none is timed yet")
    else:
        parts.append(f"a panel {duration(pace.panel)}")
    return (
        f"{left} of {jobs} are left, {duration(one)} each: about {duration(left * one)} of one "
        f"job at a time, less with several at once ({'; '.join(parts)}, here so far)."
    )


def _run(layout: Layout, variant: SweepVariant, seed: int) -> Path:
    return layout.of_variant(variant.name).run(variant.method, seed)
