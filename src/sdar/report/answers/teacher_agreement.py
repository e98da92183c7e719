"""Is the teacher right when it disagrees: its judgement held against the expert's next action.

The expert knows the world's habits, which is what a skill tells, and the episode up to the turn.
Two questions are asked at the recorded turns of evaluations played without the skill:

- The student has acted. Does the teacher's approval (the gap summed over the action's tokens,
  above 0 or not) tell actions that the expert would take from those it would not?
- Student and teacher each name their most likely action. Where the two differ, whose is the
  expert's?

The expert's is one good action among several, so a rate says how often this reference was met, not
how often an action was good; what counts are the differences between rates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdar.evaluation.statistics import sign_flip_p_value
from sdar.methods.roles import label
from sdar.records.token_classes import ACTION_CLASSES
from sdar.report.answers.resampling import Estimate, Proportion, proportion, ranking_quality
from sdar.report.style import new_figure

WHOSE = {"teacher": "#D55E00", "student": "#0072B2", "neither": "#B5B5B5"}


@dataclass(frozen=True)
class Agreement:
    """One policy's turns. `approved` and `disapproved`: of the sampled actions, those that are the
    expert's; `ranking`: AUC of the summed gap for that. `p_value`: two-sided sign-flip test over
    tasks that, where the greedy actions differ, the teacher's are as often right as the student's.
    """

    method: str
    turns: int
    without_expert: int
    approved: Proportion
    disapproved: Proportion
    ranking: Estimate | None
    ranking_by_response: Estimate | None
    """The same with the gap summed over the whole response: a thought may settle the action."""
    same: Proportion
    """Of the turns at which both have one greedy action, those where it is the expert's."""
    differ: int
    teacher_right: Proportion
    student_right: Proportion
    neither_right: Proportion
    p_value: float | None


def turn_table(tokens: pl.DataFrame) -> pl.DataFrame:
    """The recorded turns of evaluations without the skill, one row each: `action_gap` is the gap
    summed over the action's tokens, null where there are none; `response_gap` over all."""
    keys = ["method", "seed", "panel", "episode", "task_id", "task_type", "success", "turn"]
    acting = pl.col("token_class").is_in(list(ACTION_CLASSES))
    return (
        tokens.filter((pl.col("stage") == "evaluation") & ~pl.col("with_skill"))
        .group_by(keys, maintain_order=True)
        .agg(
            pl.col("action", "valid", "expert_action").first(),
            pl.col("student_greedy_action", "teacher_greedy_action").first(),
            pl.when(acting.any()).then(pl.col("gap").filter(acting).sum()).alias("action_gap"),
            pl.col("gap").sum().alias("response_gap"),
        )
    )


def agreements(turns: pl.DataFrame) -> list[Agreement]:
    """One per method, in the order of the table; see `turn_table`."""
    methods = turns["method"].unique(maintain_order=True)
    return [agreement(turns.filter(method=method), method) for method in methods]


def agreement(turns: pl.DataFrame, method: str) -> Agreement:
    """How the teacher of one policy did at these turns."""
    known = turns.filter(pl.col("expert_action").is_not_null())
    right = (pl.col("action") == pl.col("expert_action")).alias("right")
    acted = known.filter(pl.col("action_gap").is_not_null()).with_columns(right)
    approves = pl.col("action_gap") > 0

    student, teacher = pl.col("student_greedy_action"), pl.col("teacher_greedy_action")
    greedy = known.with_columns(
        (student == pl.col("expert_action")).alias("student_right"),
        (teacher == pl.col("expert_action")).alias("teacher_right"),
    )
    same, differ = greedy.filter(student == teacher), greedy.filter(student != teacher)
    neither = ~(pl.col("student_right") | pl.col("teacher_right"))
    by_task = differ.group_by("task_id", maintain_order=True).agg(
        pl.col("teacher_right").cast(pl.Int64).sum() - pl.col("student_right").cast(pl.Int64).sum()
    )
    return Agreement(
        method=method,
        turns=known.height,
        without_expert=turns.height - known.height,
        approved=proportion(acted.filter(approves)["right"].to_list()),
        disapproved=proportion(acted.filter(~approves)["right"].to_list()),
        ranking=_ranking(acted, "action_gap"),
        ranking_by_response=_ranking(acted, "response_gap"),
        same=proportion(same["student_right"].to_list()),
        differ=differ.height,
        teacher_right=proportion(differ["teacher_right"].to_list()),
        student_right=proportion(differ["student_right"].to_list()),
        neither_right=proportion(differ.select(neither).to_series().to_list()),
        p_value=sign_flip_p_value(by_task["teacher_right"]) if differ.height else None,
    )


def _ranking(acted: pl.DataFrame, score: str) -> Estimate | None:
    right = acted["right"].cast(pl.Float64)
    return ranking_quality(acted[score], right, acted["task_id"].to_list())


def agreement_figure(shown: Sequence[Agreement]) -> Figure:
    """Left: sampled actions by the teacher's approval. Right: whose greedy action is right."""
    figure, (judged, greedy) = new_figure(1, 2, (13, 2.4 + 0.75 * max(1, len(shown))))
    names = [label(item.method) for item in shown]
    for row, item in enumerate(shown):
        for offset, part, shade, name in (
            (-0.14, item.approved, "#0072B2", "teacher approves (summed gap > 0)"),
            (0.14, item.disapproved, "#E69F00", "teacher disapproves"),
        ):
            _interval(judged, row + offset, part, shade, name if row == 0 else "_repeated")
    judged.set_yticks(range(len(names)), names)
    judged.set(title="The sampled action is the expert's")
    for row, item in enumerate(shown):
        for offset, who in ((-0.2, "teacher"), (0.0, "student"), (0.2, "neither")):
            part = getattr(item, f"{who}_right")
            _interval(greedy, row + offset, part, WHOSE[who], who if row == 0 else "_repeated")
    greedy.set_yticks(
        range(len(names)),
        [f"{label(item.method)}\n{item.differ} of {item.turns} turns" for item in shown],
    )
    greedy.set(title="Greedy actions differ: whose is the expert's")
    for axis in (judged, greedy):
        axis.set(xlim=(-2, 102), xlabel="% of turns, 95% interval")
        axis.set_ylim(len(shown) - 0.4, -0.6)
        axis.grid(axis="y", visible=False)
        if shown:
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=3)
    return figure


def _interval(axis: Axes, place: float, part: Proportion, shade: str, name: str) -> None:
    if part.rate is None:
        axis.plot([], [], "o-", color=shade, label=name)
        return
    axis.errorbar(
        100 * part.rate,
        place,
        xerr=[[100 * max(0, part.rate - part.low)], [100 * max(0, part.high - part.rate)]],
        fmt="o",
        color=shade,
        markersize=7,
        linewidth=2,
        capsize=3,
        label=name,
    )
    axis.annotate(
        f"{part.count}/{part.total}",
        (100 * part.high, place),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        annotation_clip=False,
    )
