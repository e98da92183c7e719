"""The comparison stage: reads every evaluation and training record, writes tables.

Writes under `layout.results`: `episodes.parquet`, `comparison.json`, `comparison.md`. A function
of what it reads: equal inputs, equal bytes.
"""

from sdar.config import ExperimentConfig, Layout
from sdar.evaluation.records import EPISODES_ORDER
from sdar.files.whole import write_json, write_parquet, write_text
from sdar.report import figures
from sdar.report.comparison import Comparison, build_comparison
from sdar.report.markdown import comparison_markdown
from sdar.report.runs import read_episodes, read_runs
from sdar.report.style import save


def compare(config: ExperimentConfig, layout: Layout) -> None:
    """Compare all methods of the experiment. Raises SdarError naming what is missing."""
    episodes = read_episodes(config, layout)
    comparison = read_comparison(config, layout)
    write_parquet(layout.results / "episodes.parquet", episodes.sort(EPISODES_ORDER))
    write_json(layout.results / "comparison.json", comparison.as_dict())
    write_text(layout.results / "comparison.md", comparison_markdown(comparison))


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
    return build_comparison(
        read_episodes(config, layout),
        read_runs(config, layout),
        experiment=config.experiment,
        temperature=config.evaluation.temperature,
    )
