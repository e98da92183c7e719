"""The stages that read every evaluation and training record: comparison and report.

Functions of what they read: equal inputs, equal bytes. Both write under `layout.results`.
"""

from dataclasses import replace

import polars as pl

from sdar.config import ExperimentConfig, Layout
from sdar.errors import SdarError
from sdar.files.tables import sorted_by
from sdar.files.whole import write_json, write_parquet, write_text
from sdar.records.episodes import read_all
from sdar.records.page import render_page
from sdar.records.rounding import evaluation_spans, rounding_differences, spans_of
from sdar.records.runs import evaluations, read_episodes, read_runs
from sdar.records.tables import EPISODES_ORDER
from sdar.report import figures
from sdar.report.answers.write import write_answers
from sdar.report.comparison import Comparison, build_comparison
from sdar.report.markdown import comparison_markdown
from sdar.report.style import save
from sdar.report.table_page import table_page


def compare(config: ExperimentConfig, layout: Layout) -> None:
    """The comparison stage: `episodes.parquet`, `comparison.json` and `comparison.md`.

    Raises SdarError naming what is missing.
    """
    episodes = sorted_by(read_episodes(config, layout), EPISODES_ORDER)
    comparison = read_comparison(config, layout)
    write_parquet(layout.results / "episodes.parquet", episodes)
    write_json(layout.results / "comparison.json", comparison.as_dict())
    write_text(layout.results / "comparison.md", comparison_markdown(comparison))


def make_report(config: ExperimentConfig, layout: Layout) -> None:
    """The report stage: figures, tables, answers and sample episodes, into `layout.results`."""
    path = layout.results / "comparison.md"
    try:
        table = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SdarError(f"{path} cannot be read ({error}); make it with `sdar compare`") from error
    draw_figures(config, layout)
    write_text(layout.results / "comparison.html", table_page(table, config.experiment))
    write_answers(config, layout)
    episode_pages(config, layout)


def draw_figures(config: ExperimentConfig, layout: Layout) -> None:
    """Draw every figure as SVG and PNG into `layout.results / "figures"`."""
    runs = read_runs(config, layout)
    comparison = read_comparison(config, layout)
    drawn = {
        "success_by_panel": figures.success_by_panel(comparison),
        "learning_curves": figures.learning_curves(runs, comparison),
        "success_by_type": figures.success_by_type(comparison),
        "gate_curves": figures.gate_curves(runs),
    }
    for name, figure in drawn.items():
        save(figure, layout.results / "figures" / name)


def read_comparison(config: ExperimentConfig, layout: Layout) -> Comparison:
    """The comparison of the experiment, from its evaluations and training records."""
    runs = read_runs(config, layout)
    trained = [(f"{run.method}/seed-{run.seed}", spans_of(run.folder)) for run in runs]
    played = [
        (f"evaluation of {method}/seed-{seed}", evaluation_spans(layout, method, seed))
        for method, seed in evaluations(config, layout)
    ]
    # Training and evaluation are compared each among themselves.
    rounding = rounding_differences(trained)
    for key, values in rounding_differences(played).items():
        rounding[f"{key} (evaluation)"] = values
    comparison = build_comparison(
        pl.DataFrame(read_episodes(config, layout)),
        runs,
        experiment=config.experiment,
        temperature=config.evaluation.temperature,
    )
    return replace(comparison, rounding=rounding)


def episode_pages(config: ExperimentConfig, layout: Layout) -> None:
    """Write `episodes.html` from all recorded episodes of the experiment."""
    episodes = read_all(config, layout)
    settings = config.training.distillation
    page = render_page(episodes, title=config.experiment, gate=settings.gate, beta=settings.beta)
    write_text(layout.results / "episodes.html", page)
