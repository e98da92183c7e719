"""Four questions of an experiment and their answers: answers.json (numbers), answers.md and
answers.html (words and figures). Every number is computed from the runs' records.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure

from sdar.config import ExperimentConfig, Layout
from sdar.files.whole import write_json, write_text
from sdar.records.runs import Run, read_runs
from sdar.records.token_table import recorded_tokens
from sdar.report.answers_text import answers_markdown
from sdar.report.gap_over_training import (
    EvaluatedGap,
    GapCourse,
    evaluated_gaps,
    gap_courses,
    gap_figure,
)
from sdar.report.gate_mass import GateMass, gate_mass_figure, gate_masses
from sdar.report.style import save
from sdar.report.table_page import table_page
from sdar.report.teacher_agreement import Agreement, agreement_figure, agreements, turn_table
from sdar.report.teacher_cost import TeacherCost, teacher_cost_figure, teacher_costs


@dataclass(frozen=True)
class Answers:
    """The numbers of all four answers."""

    experiment: str
    gate: str
    beta: float
    masses: Sequence[GateMass]
    courses: Sequence[GapCourse]
    gaps: Sequence[EvaluatedGap]
    agreements: Sequence[Agreement]
    costs: Sequence[TeacherCost]

    def figures(self) -> dict[str, Figure]:
        """One a question, by the name of its file."""
        return {
            "gate_mass": gate_mass_figure(self.masses),
            "gap_over_training": gap_figure(self.courses, self.gaps),
            "teacher_agreement": agreement_figure(self.agreements),
            "teacher_cost": teacher_cost_figure(self.costs),
        }


def build_answers(config: ExperimentConfig, layout: Layout, runs: Sequence[Run]) -> Answers:
    """All numbers, from recorded tokens, metrics and timings. Raises SdarError for a missing or
    unreadable record."""
    tokens = recorded_tokens(config, layout)
    distillation = config.training.distillation
    return Answers(
        experiment=config.experiment,
        gate=distillation.gate,
        beta=distillation.beta,
        masses=gate_masses(tokens),
        courses=gap_courses(runs),
        gaps=evaluated_gaps(tokens),
        agreements=agreements(turn_table(tokens)),
        costs=teacher_costs(runs),
    )


def write_answers(config: ExperimentConfig, layout: Layout) -> None:
    """Write answers.json, answers.md, answers.html and four figures into `layout.results`."""
    answers = build_answers(config, layout, read_runs(config, layout))
    for name, figure in answers.figures().items():
        save(figure, layout.results / "figures" / name)
    text = answers_markdown(answers)
    write_json(layout.results / "answers.json", asdict(answers))
    write_text(layout.results / "answers.md", text)
    page = table_page(text, f"{config.experiment}: four questions")
    write_text(layout.results / "answers.html", embed_figures(page, layout.results))


def embed_figures(page: str, folder: Path) -> str:
    """The page with its figures inside it: one file that needs nothing beside it."""

    def inside(match: "re.Match[str]") -> str:
        image = (folder / match["path"]).with_suffix(".png").read_bytes()
        return f'src="data:image/png;base64,{base64.b64encode(image).decode()}"'

    return re.sub(r'src="(?P<path>figures/[\w.]+)"', inside, page)
