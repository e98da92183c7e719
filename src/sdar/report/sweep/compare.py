"""The sweep compared: every variant against the baseline, as numbers, a table and a heat map.

Writes `sweep.json`, `sweep.md`, and `heatmap` and `teacher_tokens` as svg and png under
`layout.sweep_results`. A function of the evaluations it reads, and of the teacher's tokens that the
runs counted: equal inputs, equal bytes.
"""

from statistics import fmean

import polars as pl
import pyarrow as pa

from sdar.config import ExperimentConfig, Layout
from sdar.config.variants import (
    SweepVariant,
    baseline,
    sweep_cells,
    sweep_panels,
    sweep_seeds,
    sweep_variants,
)
from sdar.errors import SdarError
from sdar.escaping import markdown
from sdar.evaluation.statistics import Rate, rate_over_tasks
from sdar.files import lines
from sdar.files.tables import read_table
from sdar.files.whole import write_json, write_text
from sdar.methods.roles import label
from sdar.records.tables import EPISODES
from sdar.report.comparison import CONFIDENCE, RESAMPLES, Outcomes, outcome_table, paired_difference
from sdar.report.formatting import difference_text, markdown_table, p_text, points, rate_text
from sdar.report.style import save
from sdar.report.sweep.data import SweepComparison, SweepResult, difference_of, setting
from sdar.report.sweep.heatmap import heatmap
from sdar.report.sweep.teacher_tokens import teacher_tokens_figure, tokens_text

_READ = pa.schema(
    EPISODES.field(name)
    for name in ("panel", "with_skill", "task_id", "seed", "evaluation_seed", "success")
)
"""What the comparison reads of an evaluation's episodes."""
TIMINGS = "timings.jsonl"


def compare_sweep(config: ExperimentConfig, layout: Layout) -> None:
    """Compare the sweep's variants. Raises SdarError naming the first evaluation missing."""
    comparison = read_sweep(config, layout)
    folder = layout.sweep_results
    write_json(folder / "sweep.json", comparison.as_dict())
    write_text(folder / "sweep.md", sweep_markdown(comparison))
    save(heatmap(comparison), folder / "heatmap")
    save(teacher_tokens_figure(comparison), folder / "teacher_tokens")


def read_sweep(config: ExperimentConfig, layout: Layout) -> SweepComparison:
    """Rates and differences from the evaluations of all variants and seeds."""
    cells, panels, seeds = sweep_cells(config), sweep_panels(config), sweep_seeds(config)
    frames = {
        variant: _episodes(layout, variant, panels, seeds) for variant in sweep_variants(config)
    }
    base = baseline(config.sweep)
    tasks, base_TR = _outcomes(frames[base])
    results = {}
    for variant, frame in frames.items():
        played, variant_TR = _outcomes(frame)
        if played != tasks:
            raise SdarError(
                f"sweep: {variant.name} and {base.name} were evaluated on different tasks; "
                "evaluate both again with `sdar evaluate --variant NAME`"
            )
        results[variant.name] = SweepResult(
            variant,
            _rate(frame),
            None if variant == base else paired_difference(variant_TR, base_TR),
            _teacher_tokens(layout, variant, seeds),
        )
    return SweepComparison(
        experiment=config.experiment,
        panels=panels,
        seeds=seeds,
        evaluation_seeds=config.evaluation.seeds,
        steps=config.sweep.steps or config.training.steps,
        cells=cells,
        results=results,
    )


def sweep_markdown(comparison: SweepComparison) -> str:
    """sweep.md: the variants by effect, and how to read them."""
    base = comparison.base
    rows = []
    for one in comparison.by_effect:
        difference = difference_of(one)
        rows.append(
            [
                one.variant.name,
                rate_text(one.rate),
                difference_text(difference),
                f"[{points(difference.low_these_runs)}, {points(difference.high_these_runs)}]",
                p_text(difference.p_value),
                "yes" if one.decided else "no",
                tokens_text(one.teacher_tokens),
                _filled(comparison, one.variant),
            ]
        )
    name, decided = label(base.variant.method), sum(one.decided for one in comparison.by_effect)
    header = ["variant", "success (%)", f"minus {name} (points)", "for these runs", "p"]
    header += ["excludes 0", "teacher's tokens", "cells"]
    return (
        f"# {markdown(comparison.experiment)}: sweep\n\n"
        f"Each variant against {name} (lambda = 0), {comparison.steps} training steps, "
        f"{markdown(setting(comparison))}. {name}: {rate_text(base.rate)} %.\n\n"
        f"{markdown_table(header, rows)}\n\n"
        "## How to read it\n\n"
        f"- Brackets are {CONFIDENCE:.0%} intervals: of a rate Wilson's over tasks, of a "
        f"difference the paired bootstrap's over tasks and runs ({RESAMPLES:,} resamples); *for "
        "these runs* and p over tasks alone.\n"
        f"- {decided} of {len(rows)} intervals exclude 0. If nothing had an effect, about "
        f"{(1 - CONFIDENCE) * len(rows):.1f} would: the largest of many differences is largest "
        "by luck too, and wants runs of its own.\n"
        "- The teacher's tokens are those it read in one training run: its prompts, and the "
        "responses after them.\n"
        "- One variant may fill several cells of the heat map: what its gate does not read cannot "
        "change it (gate none: neither beta nor skill; gate entropy: no skill).\n"
    )


def _filled(comparison: SweepComparison, variant: SweepVariant) -> str:
    return str(sum(filling == variant for filling in comparison.cells.values()))


def _episodes(
    layout: Layout, variant: SweepVariant, panels: tuple[str, ...], seeds: tuple[int, ...]
) -> pl.DataFrame:
    """The variant's episodes with the prompt its method is reported with, of these panels."""
    frames = []
    for seed in seeds:
        path = layout.of_variant(variant.name).evaluation(variant.method, seed) / "episodes.parquet"
        if not path.is_file():
            raise SdarError(
                f"{path}: no such evaluation; make it with `sdar evaluate --variant "
                f"{variant.name} --seed {seed}`, or all with the Snakemake target `sweep`"
            )
        remedy = f"evaluate it again with `sdar evaluate --variant {variant.name} --seed {seed}`"
        frame = pl.DataFrame(read_table(path, _READ, remedy)).filter(
            pl.col("panel").is_in(panels), ~pl.col("with_skill")
        )
        absent = sorted(set(panels) - set(frame["panel"].unique()))
        if absent:
            raise SdarError(f"{path}: nothing of panel {', '.join(absent)}; {remedy}")
        frames.append(frame)
    return pl.concat(frames)


def _teacher_tokens(layout: Layout, variant: SweepVariant, seeds: tuple[int, ...]) -> float | None:
    """Of a run, the mean over seeds."""
    counted = []
    for seed in seeds:
        steps = lines.read(layout.of_variant(variant.name).run(variant.method, seed) / TIMINGS)
        if not steps or any("teacher_tokens" not in step for step in steps):
            return None
        counted.append(sum(step["teacher_tokens"] for step in steps))
    return fmean(counted)


def _outcomes(frame: pl.DataFrame) -> Outcomes:
    outcomes = outcome_table(frame, ["panel", "task_id"])
    if outcomes is None:
        raise SdarError(
            "sweep: the seeds of a variant did not all play the same tasks; evaluate them again "
            "with `sdar evaluate --variant NAME --seed N`"
        )
    return outcomes


def _rate(frame: pl.DataFrame) -> Rate:
    plays: dict[str, list[bool]] = {}
    for panel, task, won in frame.select("panel", "task_id", "success").rows():
        plays.setdefault(f"{panel}/{task}", []).append(won)
    return rate_over_tasks(plays, CONFIDENCE)
