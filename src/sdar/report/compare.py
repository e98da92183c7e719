"""The comparison stage: reads every evaluation and training record, writes tables and figures.

Writes under `layout.results`: `episodes.parquet`, `comparison.json`, `comparison.md`, and under
`figures/` each of `FIGURES` as SVG and PNG. A function of what it reads: equal inputs, equal bytes.
"""

import json

from sdar.config import ExperimentConfig, Layout
from sdar.evaluation.partial import write_parquet, write_text
from sdar.evaluation.records import EPISODES_ORDER
from sdar.report import figures
from sdar.report.comparison import build_comparison
from sdar.report.markdown import comparison_markdown
from sdar.report.runs import read_episodes, read_runs
from sdar.report.style import save

FIGURES = ("success_by_panel", "learning_curves", "success_by_type", "gate_curves", "phase_times")


def compare(config: ExperimentConfig, layout: Layout) -> None:
    """Compare all methods of the experiment. Raises SdarError naming what is missing."""
    episodes = read_episodes(config, layout)
    runs = read_runs(config, layout)
    comparison = build_comparison(
        episodes,
        runs,
        experiment=config.experiment,
        temperature=config.evaluation.temperature,
    )
    drawn = {
        "success_by_panel": figures.success_by_panel(comparison),
        "learning_curves": figures.learning_curves(runs, comparison),
        "success_by_type": figures.success_by_type(comparison),
        "gate_curves": figures.gate_curves(runs),
        "phase_times": figures.phase_times(comparison.costs),
    }
    for name in FIGURES:
        save(drawn[name], layout.results / "figures" / name)
    write_parquet(layout.results / "episodes.parquet", episodes.sort(EPISODES_ORDER))
    write_text(
        layout.results / "comparison.json",
        json.dumps(comparison.as_dict(), indent=1, ensure_ascii=False) + "\n",
    )
    write_text(layout.results / "comparison.md", comparison_markdown(comparison))
