"""comparison.md: the numbers of a comparison as a person reads them. Pure text."""

from sdar.escaping import markdown
from sdar.methods.roles import START, START_WITH_SKILL, label
from sdar.records.names import type_label
from sdar.report.comparison import CONFIDENCE, RESAMPLES, Comparison, Variant
from sdar.report.formatting import (
    difference_text,
    interval_text,
    markdown_table,
    p_text,
    percent,
    points,
    rate_text,
)
from sdar.report.phases import order_phases, phase_name


def comparison_markdown(comparison: Comparison) -> str:
    """The whole document; every number with its interval, tasks and runs."""
    parts = [
        f"# {markdown(comparison.experiment)}: comparison",
        _privilege(comparison),
        _success(comparison),
        _scores(comparison),
        _data_sets(comparison),
        _versus(comparison),
        _by_type(comparison),
        _behaviour(comparison),
        _costs(comparison),
        _rounding(comparison),
        _reading(comparison),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _privilege(comparison: Comparison) -> str:
    rows = []
    for panel in comparison.panels:
        student = comparison.result(Variant(START, False), panel)
        skilled = comparison.result(Variant(START_WITH_SKILL, True), panel)
        gap = comparison.privilege[panel]
        rates = rate_text(student.rate), rate_text(skilled.rate)
        tasks, p = str(student.rate.tasks), p_text(gap.p_value)
        rows.append([panel, tasks, *rates, difference_text(gap), p])
    header = ["panel", "tasks", "student", "same weights + skill", "gap (points)", "p"]
    return (
        "## What there is to distil\n\n"
        "Success (%) of the warm start, before any reinforcement learning, without and with the "
        "skill in its prompt. Without a gap here the teacher has nothing to teach.\n\n"
        + markdown_table(header, rows)
    )


def _success(comparison: Comparison) -> str:
    rows = []
    for panel in comparison.panels:
        for variant in comparison.variants:
            result = comparison.result(variant, panel)
            seeds = ", ".join(percent(rate.rate) for rate in result.by_seed.values())
            rows.append(
                [
                    variant.label,
                    panel,
                    rate_text(result.rate),
                    f"{result.rate.tasks} x {result.rate.plays // result.rate.tasks}",
                    seeds if len(result.by_seed) > 1 else "",
                    difference_text(result.gain) if result.gain else "",
                ]
            )
    header = ["method", "panel", "success (%)", "tasks x plays", "each run (%)"]
    return "## Success\n\n" + markdown_table([*header, "gain over warm start (points)"], rows)


def _scores(comparison: Comparison) -> str:
    rows = []
    for result in comparison.results:
        if result.score is not None:
            score = result.score
            interval = interval_text(score.mean, score.low, score.high)
            rows.append([result.variant.label, result.panel, interval, str(score.tasks)])
    if not rows:
        return ""
    return (
        "## Score\n\n100 times the mean of the environment's own measure. An "
        "episode that ends without one counts as 0.\n\n"
        + markdown_table(["method", "panel", "score", "tasks"], rows)
    )


def _data_sets(comparison: Comparison) -> str:
    blocks = []
    for panel in comparison.panels:
        results = [comparison.result(variant, panel) for variant in comparison.variants]
        of_sets = [result.data_sets for result in results if result.data_sets is not None]
        if len(of_sets) < len(results):
            continue
        names = list(of_sets[0].by_set)
        lines = [(name, [sets.by_set[name] for sets in of_sets]) for name in names]
        lines.append(("all questions", [sets.overall for sets in of_sets]))
        rows = [[name, str(rates[0].tasks), *map(rate_text, rates)] for name, rates in lines]
        means = [sets.mean_of_sets for sets in of_sets]
        of_means = (interval_text(mean.rate, mean.low, mean.high) for mean in means)
        rows.append([f"mean of the {len(names)} sets", "", *of_means])
        header = ["data set", "tasks", *(result.variant.label for result in results)]
        blocks.append(f"{markdown(panel)}:\n\n" + markdown_table(header, rows))
    if not blocks:
        return ""
    note = "Every question counts once; the mean of the sets is of their rates."
    return "\n\n".join(["## Success by data set (%)", note, *blocks])


def _versus(comparison: Comparison) -> str:
    if not comparison.versus:
        return ""
    rows = [
        [
            f"{item.variant.label} - {item.reference.label}",
            item.panel,
            difference_text(item.difference),
            f"[{points(item.difference.low_these_runs)}, "
            f"{points(item.difference.high_these_runs)}]",
            p_text(item.difference.p_value),
            f"{item.difference.tasks}",
            f"{item.difference.runs_a} and {item.difference.runs_b}",
        ]
        for item in comparison.versus
    ]
    header = ["difference", "panel", "points", "for these runs", "p", "tasks", "runs"]
    return "## Paired differences\n\n" + markdown_table(header, rows)


def _by_type(comparison: Comparison) -> str:
    blocks = ["## Success by task type (%)"]
    for panel in comparison.panels:
        results = [comparison.result(variant, panel) for variant in comparison.variants]
        rows = []
        for name in comparison.task_types:
            if name not in results[0].by_type:
                continue
            tasks = results[0].by_type[name].tasks
            cells = [rate_text(result.by_type[name]) for result in results]
            rows.append([type_label(name), str(tasks), *cells])
        header = ["task type", "tasks", *(variant.label for variant in comparison.variants)]
        blocks.append(f"{markdown(panel)}:\n\n" + markdown_table(header, rows))
    return "\n\n".join(blocks)


def _behaviour(comparison: Comparison) -> str:
    rows = []
    for panel in comparison.panels:
        for variant in comparison.variants:
            result = comparison.result(variant, panel)
            shares = percent(result.invalid_share), percent(result.inadmissible_share)
            turns, tokens = f"{result.turns:.1f}", f"{result.response_tokens:.0f}"
            rows.append([variant.label, panel, turns, *shares, tokens])
    header = ["method", "panel", "turns", "invalid (% of turns)", "inadmissible (% of turns)"]
    table = markdown_table([*header, "response tokens"], rows)
    return "## Behaviour (means over episodes)\n\n" + table


def _costs(comparison: Comparison) -> str:
    if not comparison.costs:
        return ""
    phases = order_phases({p for cost in comparison.costs for p in cost.seconds})
    rows = [
        [
            label(cost.method),
            *(f"{cost.seconds.get(phase, 0.0):.2f}" for phase in phases),
            f"{cost.total:.2f}",
            percent(cost.teacher_share),
            f"{cost.runs} x {cost.steps}",
        ]
        for cost in comparison.costs
    ]
    header = ["method", *map(phase_name, phases), "whole step", "teacher (% of it)", "runs x steps"]
    return "## Cost (mean seconds per training step)\n\n" + markdown_table(header, rows)


def _rounding(comparison: Comparison) -> str:
    if not comparison.rounding:
        return ""
    rows = [
        [key, value, ", ".join(names)]
        for key, by_value in comparison.rounding.items()
        for value, names in by_value.items()
    ]
    return (
        "## Not computed alike\n\n"
        "These keys change no formula, but they round sums otherwise, and a run that rounds "
        "otherwise is, after some steps, another sample. Intervals over runs cover that; a "
        "comparison of single runs does not.\n\n" + markdown_table(["key", "value", "runs"], rows)
    )


def _reading(comparison: Comparison) -> str:
    seeds = ", ".join(map(str, comparison.evaluation_seeds))
    return (
        "## How to read the numbers\n\n"
        f"- Every task of a panel is played exactly once for each run and evaluation seed "
        f"({seeds}), at temperature {comparison.temperature:g}. Rates average over tasks; plays "
        "of one task are averaged first and never counted as further tasks.\n"
        f"- Brackets are {CONFIDENCE:.0%} intervals. Of a rate: Wilson's score interval over "
        f"tasks. Of a difference: paired bootstrap ({RESAMPLES:,} resamples) over tasks and runs, "
        "wider than it need be where the runs of a method agree; "
        "`for these runs` resamples tasks alone, and says nothing of other training seeds. A "
        "method with one run has no variance between runs to resample. An interval without width "
        "means that no task told the two apart, not that they are equal.\n"
        "- p: two-sided sign-flip test over tasks, for these runs. Nothing is corrected for the "
        "number of comparisons.\n"
        "- Invalid: the response holds no action to be parsed. Inadmissible: the environment does "
        "not offer the action."
    )
