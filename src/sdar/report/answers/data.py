"""The numbers of all four answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from matplotlib.figure import Figure

from sdar.config import ExperimentConfig, Layout
from sdar.records.runs import Run
from sdar.records.token_files import recorded_tokens
from sdar.report.answers.gap_over_training import (
    EvaluatedGap,
    GapCourse,
    evaluated_gaps,
    gap_courses,
    gap_figure,
)
from sdar.report.answers.gate_mass import GateMass, gate_mass_figure, gate_masses
from sdar.report.answers.teacher_agreement import (
    Agreement,
    agreement_figure,
    agreements,
    turn_table,
)
from sdar.report.answers.teacher_cost import TeacherCost, teacher_cost_figure, teacher_costs


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
        """One per question, by the name of its file."""
        return {
            "gate_mass": gate_mass_figure(self.masses),
            "gap_over_training": gap_figure(self.courses, self.gaps),
            "teacher_agreement": agreement_figure(self.agreements),
            "teacher_cost": teacher_cost_figure(self.costs),
        }


def build_answers(config: ExperimentConfig, layout: Layout, runs: Sequence[Run]) -> Answers:
    """All numbers, from recorded tokens, metrics and timings. Raises SdarError for a missing or
    unreadable record."""
    tokens = pl.DataFrame(recorded_tokens(config, layout))
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
