"""The four answers in words: sentences and tables around computed numbers. Pure text."""

from collections.abc import Sequence

from sdar.escaping import markdown
from sdar.methods.roles import label
from sdar.report.answers.data import Answers
from sdar.report.answers.gap_over_training import EvaluatedGap, GapCourse
from sdar.report.answers.gate_mass import GateMass, Part, common_parts
from sdar.report.answers.resampling import Estimate, Proportion
from sdar.report.answers.teacher_agreement import Agreement
from sdar.report.answers.teacher_cost import TeacherCost
from sdar.report.formatting import duration, interval_text, markdown_table, p_text, percent


def answers_markdown(answers: Answers) -> str:
    """The whole document."""
    parts = [
        f"# {markdown(answers.experiment)}: four questions",
        "Brackets are 95% intervals: over tasks, which are drawn whole (bootstrap), of counts "
        "Wilson's, of costs over steps. Recorded episodes are chosen before they are played. "
        f"Gate: {answers.gate}, β = {answers.beta:g}; the gap is log p(teacher) − log p(student) "
        "of a sampled token, in nats.",
        "## Where does the gate put its mass?",
        *_with_figure(
            gate_mass_text(answers.masses),
            "Gate mass by token class, position, outcome and task type",
            "gate_mass",
        ),
        "## Does the gap shrink?",
        *_with_figure(
            gap_text(answers.courses, answers.gaps),
            "Gap and open gates by step, gap at evaluation",
            "gap_over_training",
        ),
        "## Is the teacher right when it disagrees?",
        *_with_figure(
            agreement_text(answers.agreements), "Agreement with the expert", "teacher_agreement"
        ),
        "## What did the teacher's pass cost?",
        *_with_figure(
            cost_text(answers.costs), "Seconds and tokens per step by phase", "teacher_cost"
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _with_figure(parts: Sequence[str], text: str, name: str) -> list[str]:
    """The sentences, the figure with its text, then the tables."""
    return [parts[0], f"![{text}](figures/{name}.svg)", *parts[1:]]


def gate_mass_text(masses: Sequence[GateMass]) -> list[str]:
    """A sentence per method, then tables of all parts."""
    if not masses:
        return ["No recorded token has a gate."]
    sentences = [_gate_sentence(mass) for mass in masses if mass.stage == "training"]
    if not sentences:
        sentences = ["No method trained with a gate; these are the gates it would have met:"]
        sentences += [_gate_sentence(mass) for mass in masses]
    rows = [
        [mass.label, name, *_part_cells(part)]
        for mass in masses
        for division in (mass.by_class, mass.by_outcome)
        for name, part in division.items()
    ]
    header = ["tokens of", "part", "tokens", "% of tokens", "% of mass", "mean gate"]
    return [_bullets(sentences), markdown_table(header, rows)]


def _gate_sentence(mass: GateMass) -> str:
    classes = mass.by_class
    most = max(classes, key=lambda name: classes[name].mass_share.value)
    text = (
        f"{_bold(mass.label)} ({mass.tokens:,} tokens of {mass.episodes} episodes, mean gate "
        f"{_number(mass.mean_gate)}): {_share(classes[most].mass_share)} of the mass lies on "
        f"*{most}* tokens, which are {percent(classes[most].token_share)}% of the tokens. "
    )
    text += _extremes(mass, "by_class", "The gate is widest on *{}* {} and narrowest on *{}* {}. ")
    text += _extremes(
        mass, "by_position", "By position it is widest at tokens {} {} and narrowest at {} {}. "
    )
    failed = mass.by_outcome.get("failed")
    if failed is not None:
        text += (
            f"Failed episodes hold {_share(failed.mass_share)} of the mass and "
            f"{percent(failed.token_share)}% of the tokens."
        )
    return text.strip()


def _extremes(mass: GateMass, division: str, sentence: str) -> str:
    """The sentence with the parts of widest and narrowest mean gate, small ones left out."""
    parts: dict[str, Part] = getattr(mass, division)
    names = common_parts([mass], division)
    if len(names) < 2:
        return ""
    gates = {name: parts[name].mean_gate for name in names}
    order = sorted(names, key=lambda name: gates[name].value)
    ends = (order[-1], order[0])
    return sentence.format(
        *(word for name in ends for word in (markdown(name), f"({_number(gates[name])})"))
    )


def gap_text(courses: Sequence[GapCourse], gaps: Sequence[EvaluatedGap]) -> list[str]:
    """A sentence per method in training and at evaluation, then the table of evaluations."""
    sentences = [_course_sentence(course) for course in courses]
    if not courses:
        sentences.append("No method scored a teacher while training.")
    sentences += [_gap_sentence(item) for item in gaps if item.size_change is not None]
    rows = []
    for item in gaps:
        numbers = _number(item.mean), _number(item.size), _share(item.open_share)
        rows.append([label(item.method), f"{item.tokens:,}", *numbers])
    header = ["evaluated", "tokens", "mean gap", "mean size of the gap", "gates above .5"]
    return [_bullets(sentences), *([markdown_table(header, rows)] if rows else [])]


def _course_sentence(course: GapCourse) -> str:
    change = course.change
    verdict = _verdict(change, "rises", "falls", "does not move beyond its noise")
    nearer = abs(course.last) < abs(course.first)
    text = (
        f"{_bold(label(course.method), ', training')}: the mean gap {verdict}: "
        f"{course.first:+.3f} in the first fifth of {len(course.steps)} steps, "
        f"{course.last:+.3f} in the last, a change of "
        f"{_signed(change)}, {'nearer to' if nearer else 'not nearer to'} 0."
    )
    if course.open_share:
        text += (
            f" Gates above .5: {percent(course.open_share[0])}% of tokens in the first step, "
            f"{percent(course.open_share[-1])}% in the last."
        )
    return text


def _gap_sentence(item: EvaluatedGap) -> str:
    assert item.size_change is not None
    verdict = _verdict(item.size_change, "grew", "shrank", "is not told apart from the start's")
    text = (
        f"{_bold(label(item.method), ', evaluated')}: against the warm start on the same tasks "
        f"the size of the gap {verdict}: {_signed(item.size_change)} nats per token"
    )
    if item.mean_change is not None:
        text += f"; its mean changed by {_signed(item.mean_change)}"
    return text + "."


def agreement_text(agreements: Sequence[Agreement]) -> list[str]:
    """Sentences per policy, then the table of counts."""
    judged = [item for item in agreements if item.turns]
    if not judged:
        return ["No recorded turn has an expert's action to compare with."]
    sentences = [_agreement_sentence(item) for item in judged]
    approval = [
        [label(i.method), str(i.turns), _counted(i.approved), _counted(i.disapproved)]
        + [_number(auc) if auc else "–" for auc in (i.ranking, i.ranking_by_response)]
        for i in judged
    ]
    greedy = []
    for item in judged:
        counts = item.same, item.teacher_right, item.student_right, item.neither_right
        greedy.append([label(item.method), *map(_counted, counts)])
    return [
        _bullets(sentences),
        "How often a sampled action is the expert's next action (%), by the teacher's approval "
        "(gap summed over the action above 0), and AUC of the summed gap for that:",
        markdown_table(
            ["policy", "turns", "approved", "disapproved", "action's gap", "response's gap"],
            approval,
        ),
        "How often a greedy action is the expert's (%), where student and teacher name the same "
        "and where they differ:",
        markdown_table(
            ["policy", "the same", "differ: teacher's", "differ: student's", "differ: neither"],
            greedy,
        ),
    ]


def _agreement_sentence(item: Agreement) -> str:
    text = f"{_bold(label(item.method))} ({item.turns} turns): "
    if item.approved.rate is not None and item.disapproved.rate is not None:
        text += (
            f"an action the teacher approves is the expert's in {_rate(item.approved)}, one it "
            f"disapproves in {_rate(item.disapproved)}. "
        )
    if item.ranking is not None:
        text += f"The summed gap ranks the two kinds with AUC {_number(item.ranking)}"
        if item.ranking_by_response is not None:
            text += f", summed over thought and action {_number(item.ranking_by_response)}"
        text += ". "
    if not item.differ:
        return text + "The greedy actions of student and teacher never differ."
    assert item.p_value is not None
    text += (
        f"The greedy actions differ at {item.differ} turns; there the teacher's is the expert's in "
        f"{_rate(item.teacher_right)}, the student's in {_rate(item.student_right)}, neither in "
        f"{_rate(item.neither_right)} (teacher against student, sign-flip test over tasks: "
        f"p {_p(item.p_value)})"
    )
    better = (item.teacher_right.rate or 0) > (item.student_right.rate or 0)
    if item.p_value >= 0.05:
        return text + ": these turns do not tell the two apart."
    return text + f": the {'teacher' if better else 'student'} is right more often."


def cost_text(costs: Sequence[TeacherCost]) -> list[str]:
    """A sentence per method with a teacher, then the table."""
    taught = [cost for cost in costs if cost.seconds_share.value > 0]
    sentences = [
        f"{_bold(label(cost.method))}: the teacher's pass took "
        f"{duration(cost.seconds['teacher'])} of a step's {duration(cost.total_seconds)}, "
        f"{_share(cost.seconds_share)} of the time, and "
        f"{_share(cost.tokens_share)} of the tokens through the model"
        + (
            f"; its prompts are {cost.prompt_ratio:.2f} times as long as the student's."
            if cost.prompt_ratio
            else "."
        )
        for cost in taught
    ] or ["No method of this experiment has a teacher's pass."]
    rows = [
        [
            label(cost.method),
            f"{cost.total_seconds:.2f}",
            f"{cost.seconds.get('teacher', 0.0):.2f}",
            _share(cost.seconds_share),
            f"{cost.total_tokens:,.0f}",
            f"{cost.tokens.get('teacher', 0.0):,.0f}",
            _share(cost.tokens_share),
            f"{cost.steps}",
        ]
        for cost in costs
    ]
    of_teacher = ["of the teacher", "share"]
    header = ["method", "seconds per step", *of_teacher, "tokens per step", *of_teacher, "steps"]
    return [_bullets(sentences), *([markdown_table(header, rows)] if rows else [])]


def _bold(name: str, more: str = "") -> str:
    return f"**{markdown(name)}{more}**"


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _part_cells(part: Part) -> list[str]:
    return [
        f"{part.tokens:,}",
        percent(part.token_share),
        interval_text(part.mass_share.value, part.mass_share.low, part.mass_share.high),
        _number(part.mean_gate),
    ]


def _verdict(change: Estimate, up: str, down: str, still: str) -> str:
    if change.units < 2 or change.low <= 0 <= change.high:
        return still
    return up if change.value > 0 else down


def _number(item: Estimate) -> str:
    return f"{item.value:.3f} [{item.low:.3f}, {item.high:.3f}]"


def _signed(item: Estimate) -> str:
    return f"{item.value:+.3f} [{item.low:+.3f}, {item.high:+.3f}]"


def _share(item: Estimate) -> str:
    return f"{percent(item.value)}% [{percent(item.low)}, {percent(item.high)}]"


def _rate(part: Proportion) -> str:
    assert part.rate is not None
    return (
        f"{part.count} of {part.total} ({percent(part.rate)}% [{percent(part.low)}, "
        f"{percent(part.high)}])"
    )


def _counted(part: Proportion) -> str:
    if part.rate is None:
        return "–"
    return f"{part.count}/{part.total}: {interval_text(part.rate, part.low, part.high)}"


def _p(value: float) -> str:
    text = p_text(value)
    return text if text.startswith("<") else f"= {text}"
