"""The four answers on records whose answers are known."""

import json
import re
from html.parser import HTMLParser
from math import sqrt
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from report_data import make_experiment

from sdar.evaluation.statistics import wilson_interval
from sdar.records.runs import Run, read_runs
from sdar.records.token_files import recorded_tokens
from sdar.report.answers.data import build_answers
from sdar.report.answers.gap_over_training import evaluated_gaps, gap_courses
from sdar.report.answers.gate_mass import common_parts, gate_masses
from sdar.report.answers.resampling import (
    difference_of_ratios,
    proportion,
    ranking_quality,
    ratio,
    unit_weights,
)
from sdar.report.answers.teacher_agreement import agreement, agreements, turn_table
from sdar.report.answers.teacher_cost import phase_seconds, teacher_costs
from sdar.report.answers.text import agreement_text, answers_markdown, cost_text, gap_text
from sdar.report.answers.write import write_answers

pytestmark = pytest.mark.slow  # its fixture makes whole experiments


def token(**values: object) -> dict[str, object]:
    """A recorded token; what is not said is an unremarkable value."""
    plain = {
        "stage": "evaluation",
        "method": "sdar",
        "seed": 0,
        "with_skill": False,
        "panel": "valid_seen",
        "episode": "e0",
        "task_id": "t0",
        "task_type": "pick_and_place_simple",
        "success": True,
        "turn": 0,
        "position": 0,
        "token_class": "thought",
        "gap": 0.0,
        "gate": 0.5,
        "action": "go to shelf 1",
        "valid": True,
        "expert_action": "go to shelf 1",
        "student_greedy_action": "go to shelf 1",
        "teacher_greedy_action": "go to shelf 1",
    }
    assert values.keys() <= plain.keys()
    return plain | values


# Resampling


def test_a_ratio_is_of_sums_and_its_interval_that_of_the_mean():
    rng = np.random.default_rng(0)
    values = rng.normal(3.0, 2.0, 400)
    mean = ratio(values, np.ones(400))
    assert mean.value == pytest.approx(values.mean())
    error = 1.96 * values.std() / sqrt(400)
    assert mean.high - mean.value == pytest.approx(error, rel=0.1)
    assert mean.value - mean.low == pytest.approx(error, rel=0.1)
    assert ratio([1, 3], [4, 4]).value == 0.5
    constant = ratio([2, 4, 6], [1, 2, 3])
    assert (constant.low, constant.high) == pytest.approx((2, 2))
    alone = ratio([3], [4])
    assert (alone.value, alone.low, alone.high, alone.units) == (0.75, 0.75, 0.75, 1)
    with pytest.raises(ValueError, match="denominator"):
        ratio([0.0], [0.0])


def test_paired_ratios_are_drawn_together():
    a = ([1.0, 5.0, 2.0, 9.0], [2, 5, 3, 10])
    same = difference_of_ratios(a, a)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    shifted = ([n + 0.25 * d for n, d in zip(*a, strict=True)], a[1])
    moved = difference_of_ratios(shifted, a)
    assert (moved.value, moved.low, moved.high) == pytest.approx((0.25, 0.25, 0.25))
    with pytest.raises(ValueError, match="not paired"):
        difference_of_ratios(a, ([1.0], [1]))


def test_every_resample_draws_as_many_units():
    weights = unit_weights(7)
    assert (weights.sum(axis=1) == 7).all()
    assert np.array_equal(weights, unit_weights(7))


def test_ranking_quality_counts_pairs():
    rng = np.random.default_rng(1)
    scores = np.round(rng.normal(size=60), 1)
    right = rng.random(60) < 0.4
    names = [f"t{i % 9}" for i in range(60)]
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[right] for b in scores[~right]]
    auc = ranking_quality(scores, right, names)
    assert auc is not None
    assert auc.value == pytest.approx(np.mean(pairs))
    assert auc.low < auc.value < auc.high
    assert auc.units == 9
    assert ranking_quality([1, 2, 3, 4], [0, 0, 1, 1], list("abcd")).value == 1
    assert ranking_quality([4, 3, 2, 1], [0, 0, 1, 1], list("abcd")).value == 0
    assert ranking_quality([1, 1], [0, 1], list("ab")).value == 0.5
    assert ranking_quality([1, 2], [1, 1], list("ab")) is None


def test_a_proportion_of_nothing_says_so():
    assert proportion([]).rate is None
    part = proportion([True, False, True, True])
    assert (part.count, part.total, part.rate) == (3, 4, 0.75)
    assert (part.low, part.high) == wilson_interval(3, 4)


# Where the gate puts its mass


def gate_table() -> pl.DataFrame:
    rows = [
        *(token(token_class="thought", gate=0.2, position=p) for p in range(4)),
        *(token(token_class="object", gate=0.8, position=p, task_id="t1", episode="e1",
                success=False, task_type="look_at_obj_in_light") for p in (4, 5)),
        token(with_skill=True, gate=1.0, method="skill_prompt"),
        token(stage="training", method="grpo", gate=None, gap=None),
        token(stage="training", gate=0.9, token_class="tag", position=600),
    ]  # fmt: skip
    return pl.DataFrame(rows)


def test_mass_is_divided_by_class_position_outcome_and_type():
    trained, evaluated = gate_masses(gate_table())
    assert (trained.stage, trained.method, trained.tokens) == ("training", "sdar", 1)
    assert list(trained.by_position) == ["512+"]
    assert (evaluated.tokens, evaluated.episodes) == (6, 2)
    assert evaluated.mean_gate.value == pytest.approx(2.4 / 6)
    thought, objects = evaluated.by_class["thought"], evaluated.by_class["object"]
    assert list(evaluated.by_class) == ["thought", "object"]
    assert thought.token_share == pytest.approx(4 / 6)
    assert thought.mass_share.value == pytest.approx(0.8 / 2.4)
    assert objects.mass_share.value == pytest.approx(1.6 / 2.4)
    assert objects.mean_gate.value == pytest.approx(0.8)
    assert {k: p.tokens for k, p in evaluated.by_position.items()} == {"0–3": 4, "4–7": 2}
    assert evaluated.by_outcome["failed"].mass_share.value == pytest.approx(1.6 / 2.4)
    assert evaluated.by_outcome["solved"].token_share == pytest.approx(4 / 6)
    assert evaluated.by_type["look_at_obj_in_light"].mean_gate.value == pytest.approx(0.8)
    for division in (evaluated.by_class, evaluated.by_outcome, evaluated.by_type):
        assert sum(part.mass_share.value for part in division.values()) == pytest.approx(1)
        assert sum(part.tokens for part in division.values()) == 6


def test_weights_of_either_sign_and_gates_that_are_shut_are_divided_too():
    """`sdar_centred` weighs tokens both ways; `sdar_objective` may drop all that were recorded."""
    signed = gate_table().with_columns(pl.col("gate") - pl.col("gate").mean())
    for mass in gate_masses(signed):
        shares = [part.mass_share.value for part in mass.by_class.values()]
        assert sum(shares) == pytest.approx(1.0)
        assert min(shares) >= 0
    shut = gate_table().with_columns(gate=pl.lit(0.0))
    for mass in gate_masses(shut):
        assert mass.mean_gate.value == 0
        assert {part.mass_share.value for part in mass.by_class.values()} == {0.0}


def test_a_handful_of_tokens_is_counted_but_not_spoken_of():
    rows = [token(token_class="thought", gate=0.4) for _ in range(300)]
    rows += [token(token_class="tag", gate=0.6) for _ in range(100)]
    rows += [token(token_class="other", gate=0.99)]
    masses = gate_masses(pl.DataFrame(rows))
    assert masses[0].by_class["other"].tokens == 1
    assert common_parts(masses, "by_class") == ["thought", "tag"]


# Does the gap shrink


def run(method: str, seed: int, **series: list[float]) -> Run:
    points = {name: list(enumerate(values)) for name, values in series.items()}
    return Run(method, seed, Path(), points)


def test_the_course_of_the_gap_is_the_mean_over_runs():
    first = [-1.0, -0.9, -0.8, -0.7, -0.6, -0.5, -0.4, -0.3, -0.2, -0.1]
    second = [value - 0.2 for value in first]
    runs = [
        run("sdar", 0, gap_mean=first, gate_active=[0.3] * 10),
        run("sdar", 1, gap_mean=[*second, 5.0], gate_active=[0.5] * 11),
        run("grpo", 0, success=[0.1] * 10),
        run("rlsd", 0, gap_mean=[-0.5] * 10),
    ]
    course, flat = gap_courses(runs)
    assert (course.method, course.runs, course.steps) == ("sdar", 2, list(range(10)))
    assert course.mean == pytest.approx([value - 0.1 for value in first])
    assert course.open_share == pytest.approx([0.4] * 10)
    assert (course.first, course.last) == pytest.approx((-1.05, -0.25))
    assert course.change.value == pytest.approx(0.8)
    assert course.change.low > 0.6
    assert (flat.method, flat.open_share, flat.quantiles) == ("rlsd", None, {})
    assert (flat.change.value, flat.change.low, flat.change.high) == (0, 0, 0)
    text = gap_text([course, flat], [])[0]
    assert "**SDAR, training**: the mean gap rises: -1.050 in the first fifth of 10 steps" in text
    assert "**RLSD, training**: the mean gap does not move beyond its noise" in text


def test_evaluated_gaps_are_compared_with_the_start_task_by_task():
    rows = []
    for method, scale in (("warm_start", 1.0), ("sdar", 0.5)):
        for task, gap in (("t0", -0.4), ("t1", 0.2), ("t2", -0.2)):
            rows += [
                token(method=method, task_id=task, gap=scale * gap, gate=g) for g in (0.4, 0.6)
            ]
    rows.append(token(method="grpo", task_id="elsewhere", gap=-1.0))
    start, sdar, grpo = evaluated_gaps(pl.DataFrame(rows))
    assert start.mean.value == pytest.approx(-0.4 / 3)
    assert start.size.value == pytest.approx(0.8 / 3)
    assert start.open_share.value == 0.5
    assert start.mean_change is None
    assert sdar.size_change.value == pytest.approx(-0.4 / 3)
    assert sdar.size_change.high < 0, "every task's gap is halved"
    assert grpo.size_change is None, "it has no task in common"
    assert "the size of the gap shrank: -0.133" in gap_text([], [start, sdar, grpo])[0]


def test_evaluated_gaps_are_the_same_bits_each_time():
    """Sums over many threads in any order are not."""
    rng = np.random.default_rng(0)
    gaps = rng.normal(size=20_000)
    frame = pl.DataFrame([token(task_id=f"t{i % 12}", gap=gap) for i, gap in enumerate(gaps)])
    (first,) = evaluated_gaps(frame)
    assert all(evaluated_gaps(frame) == [first] for _ in range(50))


# Is the teacher right


def turn(number: int, gap: float | None, right: bool, **values: object) -> list[dict[str, object]]:
    """Two tokens of a turn: a thought with a large gap, and an action with this one."""
    shared = {"turn": number, "task_id": f"t{number % 5}", "episode": f"e{number % 5}"}
    shared |= {"action": "take mug 1" if right else "look", "expert_action": "take mug 1"} | values
    thought = token(**shared, token_class="thought", gap=3.0)
    acting = [] if gap is None else [token(**shared, token_class="object", gap=gap)]
    return [thought, *acting]


def test_the_action_gap_is_summed_over_action_tokens_alone():
    rows = [
        *turn(0, 0.5, right=True),
        token(token_class="action verb", gap=-0.2, turn=0, task_id="t0", episode="e0"),
        *turn(1, None, right=False),
        *turn(2, 0.1, right=True, stage="training"),
        *turn(3, 0.1, right=True, with_skill=True),
    ]
    turns = turn_table(pl.DataFrame(rows))
    assert turns["turn"].to_list() == [0, 1]
    assert turns["action_gap"].to_list() == [pytest.approx(0.3), None]
    assert turns["response_gap"].to_list() == [pytest.approx(3.3), 3.0]


def test_approval_is_held_against_the_expert():
    rows = [row for i in range(6) for row in turn(i, 0.4, right=i < 5)]
    rows += [row for i in range(6, 10) for row in turn(i, -0.4, right=i < 7)]
    rows += turn(10, None, right=False)
    rows += turn(11, 0.4, right=True, expert_action=None)
    judged = agreement(turn_table(pl.DataFrame(rows)), "sdar")
    assert (judged.turns, judged.without_expert) == (11, 1)
    assert (judged.approved.count, judged.approved.total) == (5, 6)
    assert (judged.disapproved.count, judged.disapproved.total) == (1, 4)
    assert (judged.approved.low, judged.approved.high) == wilson_interval(5, 6)
    # 6 right and 4 not: 5*3 pairs won, 5*1 and 1*3 tied, 1*1 lost.
    assert judged.ranking.value == pytest.approx((15 + 4) / 24)


def greedy(student: str, teacher: str, count: int, start: int) -> list[dict[str, object]]:
    return [
        row
        for i in range(start, start + count)
        for row in turn(
            i,
            0.1,
            right=True,
            student_greedy_action="take mug 1" if student == "right" else student,
            teacher_greedy_action="take mug 1" if teacher == "right" else teacher,
        )
    ]


def test_greedy_actions_that_differ_are_counted_by_who_is_right():
    rows = greedy("right", "right", 4, 0) + greedy("look", "look", 1, 4)
    rows += greedy("look", "right", 20, 5) + greedy("right", "look", 3, 25)
    rows += greedy("look", "go to bed 1", 2, 28)
    judged = agreement(turn_table(pl.DataFrame(rows)), "sdar")
    assert (judged.same.count, judged.same.total, judged.differ) == (4, 5, 25)
    assert (judged.teacher_right.count, judged.student_right.count) == (20, 3)
    assert (judged.neither_right.count, judged.neither_right.total) == (2, 25)
    # Five tasks, each of which speaks for the teacher: 2 of 32 sign patterns are as extreme.
    assert judged.p_value == pytest.approx(2 / 32)
    assert "differ at 25 turns" in agreement_text([judged])[0]
    assert "do not tell the two apart" in agreement_text([judged])[0]


def test_a_clear_difference_is_named():
    rows = [
        row | {"task_id": f"task {i}"}
        for i in range(12)
        for row in greedy("look", "right", 1, i)
    ]  # fmt: skip
    judged = agreements(turn_table(pl.DataFrame(rows)))
    assert judged[0].p_value == pytest.approx(2 / 2**12)
    assert "the teacher is right more often" in agreement_text(judged)[0]
    swapped = [r | {"student_greedy_action": r["teacher_greedy_action"],
                    "teacher_greedy_action": r["student_greedy_action"]} for r in rows]  # fmt: skip
    text = agreement_text(agreements(turn_table(pl.DataFrame(swapped))))[0]
    assert "the student is right more often" in text


# What it cost


def test_cost_of_a_teacher_that_scores_a_part_of_the_turns():
    line = {"step": 0, "old_s": 1.0, "teacher_s": 0.5, "tokens": 1000, "total_s": 2.0}
    taught = {"teacher_prompt_tokens": 300, "taught_prompt_tokens": 200, "teacher_tokens": 350}
    run = Run("sdar", 0, Path(), {"response_tokens": [(0, 200.0)]}, timings=[line | taught])
    (cost,) = teacher_costs([run])
    assert cost.tokens == {"old": 1000, "teacher": 350}
    assert cost.prompt_ratio == pytest.approx(1.5)


def test_runs_without_a_common_step_that_was_taught_have_no_course():
    names = ("gap_mean", "gap_q05", "gap_q25", "gap_q75", "gap_q95")
    runs = [
        Run("sdar", seed, Path(), {name: [(seed, 0.1)] for name in names}, steps=2)
        for seed in (0, 1)
    ]
    assert gap_courses(runs) == []
    assert [course.steps for course in gap_courses(runs[:1])] == [[0]]


def test_cost_is_seconds_and_tokens_by_phase():
    line = {"generation_s": 2.0, "old_s": 1.0, "teacher_s": 1.5, "update_s": 4.0, "total_s": 10.0}
    counts = {"tokens": 1000, "teacher_prompt_tokens": 1200, "tokens_per_second": 3.0}
    series = {"response_tokens": [(0, 200.0), (1, 200.0)]}
    timed = [{"step": step, "at": 1.0, **line, **counts} for step in (0, 1)]
    without = {k: v for k, v in line.items() if k != "teacher_s"} | {"total_s": 8.5}
    plain = [{"step": 0, **without, **counts, "teacher_prompt_tokens": 0}]
    runs = [
        Run("sdar", 0, Path(), series, timings=timed),
        Run("grpo", 0, Path(), series, timings=plain),
        Run("rlsd", 0, Path()),
    ]
    sdar, grpo = teacher_costs(runs)
    assert phase_seconds(line)["other"] == pytest.approx(1.5)
    assert sdar.seconds["teacher"] == 1.5
    assert sdar.total_seconds == pytest.approx(10)
    assert sdar.seconds_share.value == pytest.approx(0.15)
    assert sdar.tokens == {"generation": 1000, "old": 1000, "teacher": 1400, "update": 1000}
    assert sdar.tokens_share.value == pytest.approx(1400 / 4400)
    assert sdar.prompt_ratio == pytest.approx(1200 / 800)
    assert (grpo.seconds_share.value, grpo.prompt_ratio) == (0, None)
    assert "teacher" not in grpo.tokens
    text = cost_text([sdar, grpo])[0]
    assert "1.5 s of a step's 10.0 s, 15.0% [15.0, 15.0] of the time" in text
    assert "1.50 times as long" in text
    assert "No method of this experiment" in cost_text([grpo])[0]


# All together, from files


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    config, layout = make_experiment(
        tmp_path_factory.mktemp("root"), steps=8, panels={"valid_seen": 12}
    )
    write_answers(config, layout)
    return config, layout


def test_answers_are_those_of_the_files(made):
    config, layout = made
    values = json.loads((layout.results / "answers.json").read_text("utf-8"))
    text = (layout.results / "answers.md").read_text("utf-8")
    tokens = pl.concat(
        pl.read_parquet(layout.evaluation("sdar", seed) / "tokens.parquet") for seed in (0, 1)
    )
    mass = next(m for m in values["masses"] if m["method"] == "sdar")
    thoughts = tokens.filter(token_class="thought")["gate"].sum() / tokens["gate"].sum()
    assert mass["by_class"]["thought"]["mass_share"]["value"] == pytest.approx(thoughts)
    assert f" {100 * thoughts:.1f} [" in text
    gap = next(g for g in values["gaps"] if g["method"] == "sdar")
    assert gap["size"]["value"] == pytest.approx(tokens["gap"].abs().mean())

    # The teacher's greedy action is another at every third turn: the expert's at even ones, the
    # student's own, and right, at odd ones.
    judged = next(a for a in values["agreements"] if a["method"] == "sdar")
    turns = tokens.unique(["seed", "episode", "turn"])
    assert judged["turns"] == turns.height
    differ = turns.filter(pl.col("turn") % 3 == 0)
    assert judged["differ"] == differ.height
    assert judged["teacher_right"]["count"] == differ.filter(pl.col("turn") % 2 == 0).height
    assert judged["student_right"]["count"] == differ.filter(pl.col("turn") % 2 == 1).height
    assert judged["neither_right"]["count"] == 0
    assert {a["method"] for a in values["agreements"]} == {"warm_start", "grpo", "sdar"}

    cost = next(c for c in values["costs"] if c["method"] == "sdar")
    lines = [
        json.loads(line)
        for seed in (0, 1)
        for line in (layout.run("sdar", seed) / "timings.jsonl").open()
    ]
    share = sum(x["teacher_s"] for x in lines) / sum(x["total_s"] for x in lines)
    assert cost["seconds_share"]["value"] == pytest.approx(share)
    assert cost["tokens"]["teacher"] == pytest.approx(21_000 + 1000)
    assert values["courses"][0]["steps"] == list(range(8))
    assert config.experiment in text


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.cells = 0

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.sources += [values[key] for key in ("src", "href") if values.get(key)]
        self.cells += tag == "td"


def test_the_page_holds_its_figures_and_links_to_nothing(made):
    _, layout = made
    page = _Page()
    page.feed((layout.results / "answers.html").read_text("utf-8"))
    assert len(page.sources) == 4
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert page.cells > 50
    text = (layout.results / "answers.md").read_text("utf-8")
    for name in re.findall(r"\(figures/(\w+)\.svg\)", text):
        assert (layout.results / "figures" / f"{name}.svg").is_file()
    assert re.findall(r"^## (.*)$", text, re.M) == [
        "Where does the gate put its mass?",
        "Does the gap shrink?",
        "Is the teacher right when it disagrees?",
        "What did the teacher's pass cost?",
    ]
    assert "nan" not in text.lower()


def test_an_experiment_without_gate_teacher_or_expert_is_answered_too(made):
    config, layout = made
    plain = config.model_copy(update={"methods": ("grpo",)})
    answers = build_answers(plain, layout, read_runs(plain, layout))
    assert answers.courses == []
    text = answers_markdown(answers)
    assert "No method trained with a gate" in text
    assert "No method scored a teacher while training" in text
    assert "No method of this experiment has a teacher's pass" in text
    tokens = pl.DataFrame(recorded_tokens(plain, layout))
    blind = tokens.with_columns(expert_action=pl.lit(None, pl.String))
    assert "No recorded turn" in agreement_text(agreements(turn_table(blind)))[0]
