"""A share of the turns taught: on average the whole term, exactly. And the term's schedules."""

import json
import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from default_settings import ADVANTAGES
from default_settings import LOSS as SETTINGS
from torch import Tensor

from sdar.algorithms.aggregation import Aggregation
from sdar.algorithms.context import GapQuantiles, StepContext
from sdar.algorithms.distillation import vocabulary_reverse_kl
from sdar.algorithms.inputs import MicroBatch, StepSamples
from sdar.algorithms.loss import TrainingLoss, training_loss
from sdar.algorithms.step import step_advantages, step_context
from sdar.algorithms.teaching import NOT_RETIRED, Retirement, TeachingSchedule
from sdar.errors import SdarError
from sdar.methods.declarations import METHODS, Method, get_method

SHARE = 0.25
LENGTHS = (4, 2, 5, 1, 3, 5)
EPISODES = [0, 0, 0, 1, 1, 2]
every_term = pytest.mark.parametrize(
    "method", [m for m in METHODS.values() if m.distillation != "none"], ids=lambda m: m.name
)
every_credit = pytest.mark.parametrize(
    "method", [m for m in METHODS.values() if m.token_credit != "uniform"], ids=lambda m: m.name
)
every_aggregation = pytest.mark.parametrize(
    "mode", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"]
)


def normal(number: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    shape = len(LENGTHS), max(LENGTHS)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


OLD = -normal(0).abs() - 0.1
TEACHER = OLD + normal(1)
MASK = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
ALL = torch.ones(len(LENGTHS), dtype=torch.bool)
NONE = ~ALL


def samples(taught_S: Tensor | None, teacher: Tensor = TEACHER) -> StepSamples:
    score = torch.tensor([0.0, -0.1, 10.0, 0.0, 0.0, 10.0], dtype=torch.float64)
    return StepSamples(
        step_return=score,
        step_reward=score,
        group=[0] * len(LENGTHS),
        episode=EPISODES,
        turn=[0, 1, 2, 0, 1, 0],
        anchor_observation=list("abacab"),
        success=torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 1.0]),
        valid=torch.tensor([True, False, True, True, True, True]),
        response_mask=MASK,
        old_log_probs=OLD,
        old_entropy=normal(2).abs(),
        teacher_log_probs=teacher,
        taught=taught_S,
    )


def loss_and_gradient(
    method: Method,
    context: StepContext,
    share: float,
    mode: str = "token-mean",
    teacher: Tensor = TEACHER,
) -> tuple[TrainingLoss, Tensor]:
    student = (OLD - normal(3, 0.1).abs()).requires_grad_()
    student_V = torch.stack([student, (-student.expm1()).log()], dim=-1)
    teacher_V = torch.stack([teacher, torch.zeros_like(teacher)], dim=-1).log_softmax(-1)
    divergence = vocabulary_reverse_kl(student_V.flatten(0, 1), teacher_V.flatten(0, 1))
    batch = MicroBatch(
        log_probs=student,
        old_log_probs=OLD,
        advantages=normal(4)[:, :1].repeat(1, max(LENGTHS)),
        response_mask=MASK,
        teacher_log_probs=teacher,
        reference_log_probs=OLD + normal(5, 0.3),
        entropy=normal(6).abs(),
        teacher_divergence=divergence.view(student.shape),
    )
    settings = replace(SETTINGS, teacher_share=share)
    result = training_loss(method, settings, batch, Aggregation(mode), context)
    result.loss.backward()
    assert student.grad is not None
    return result, student.grad


def draws(units: list[int]) -> list[tuple[float, Tensor]]:
    """Every draw of the units (a number for each sample) with its probability."""
    count = max(units) + 1
    made = []
    for drawn in product([True, False], repeat=count):
        chance = math.prod(SHARE if one else 1 - SHARE for one in drawn)
        made.append((chance, torch.tensor([drawn[unit] for unit in units])))
    return made


def test_the_chances_of_all_draws_are_one() -> None:
    each = draws(list(range(len(LENGTHS))))
    assert len(each) == 2 ** len(LENGTHS)
    assert math.fsum(chance for chance, _ in each) == pytest.approx(1)


@every_aggregation
@every_term
def test_on_average_over_draws_it_is_the_whole_term(method: Method, mode: str) -> None:
    """Value and gradient, with the step's constants given: exact, by summing over all draws."""
    advantages = normal(4)[:, :1].repeat(1, max(LENGTHS))
    whole = step_context(method, SETTINGS, samples(None), advantages)
    full, full_gradient = loss_and_gradient(method, whole, 1.0, mode)
    loss, gradient = torch.zeros(()), torch.zeros(())
    term = torch.zeros(())
    for chance, taught_S in draws(list(range(len(LENGTHS)))):
        context = replace(whole, taught=MASK & taught_S[:, None])
        drawn, its_gradient = loss_and_gradient(method, context, SHARE, mode)
        loss, gradient = loss + chance * drawn.loss.detach(), gradient + chance * its_gradient
        term = term + chance * drawn.statistics["distillation_loss"]
    torch.testing.assert_close(loss, full.loss.detach(), atol=1e-12, rtol=0)
    torch.testing.assert_close(gradient, full_gradient, atol=1e-12, rtol=0)
    torch.testing.assert_close(term, full.statistics["distillation_loss"], atol=1e-12, rtol=0)
    without, without_gradient = loss_and_gradient(method, replace(whole, taught=MASK & False), 1.0)
    assert not torch.allclose(full_gradient, without_gradient), "the term does something here"
    assert without.statistics["distillation_loss"] == 0


@every_credit
def test_on_average_over_draws_it_is_the_whole_credit(method: Method) -> None:
    units = EPISODES if method.compares_turns else list(range(len(LENGTHS)))
    full = step_advantages(method, samples(None), ADVANTAGES, step=3)
    partly = replace(ADVANTAGES, teacher_share=SHARE)
    expected = torch.zeros(())
    for chance, taught_S in draws(units):
        drawn = step_advantages(method, samples(taught_S), partly, step=3)
        assert torch.all(drawn * full >= 0), "no sign turns"
        expected = expected + chance * drawn
    torch.testing.assert_close(expected, full, atol=1e-12, rtol=0)
    plain = step_advantages(get_method("grpo"), samples(None), ADVANTAGES, step=3)
    assert not torch.allclose(full, plain)
    torch.testing.assert_close(
        step_advantages(method, samples(NONE), partly, step=3), plain, atol=0, rtol=0
    )


@every_credit
def test_the_smallest_share_turns_no_sign_and_a_smaller_one_is_refused(method: Method) -> None:
    assert method.refuses_share(0.1) is None
    refused = method.refuses_share(0.09)
    assert refused is not None
    assert "training.distillation.share is 0.09" in refused
    assert "raise it to 0.1 or more" in refused
    plain = step_advantages(get_method("grpo"), samples(None), ADVANTAGES, step=0)
    # Tokens as the teacher could like and hate them most.
    for apart in (-50.0, 50.0):
        extreme = samples(ALL, OLD + apart * normal(7))
        least = replace(ADVANTAGES, teacher_share=0.1)
        assert torch.all(step_advantages(method, extreme, least, step=0) * plain >= 0)


def test_methods_with_a_term_take_any_share() -> None:
    with_credit = {"rlsd", "agent_opsd"}
    refusing = {m.name for m in METHODS.values() if m.refuses_share(1e-6) is not None}
    assert refusing == with_credit


@pytest.mark.parametrize(
    "method", [m for m in METHODS.values() if m.needs_teacher], ids=lambda m: m.name
)
def test_nothing_is_read_of_turns_that_were_not_taught(method: Method) -> None:
    taught_S = torch.tensor([True, True, True, False, False, True])
    unknown = TEACHER.masked_fill(~taught_S[:, None], math.nan)
    results = []
    for teacher in (TEACHER, unknown):
        partly = replace(ADVANTAGES, teacher_share=SHARE)
        advantages = step_advantages(method, samples(taught_S, teacher), partly, step=3)
        context = step_context(method, SETTINGS, samples(taught_S, teacher), advantages)
        # A divergence is made from the teacher, and so is none where it was not asked.
        known = TEACHER if method.distillation == "reverse_kl_full" else teacher
        results.append(
            (context, advantages, *loss_and_gradient(method, context, SHARE, "token-mean", known))
        )
    (context, advantages, loss, gradient), (other, *rest) = results
    assert (context.baseline, context.centre, context.scale) == (
        *(other.baseline, other.centre, other.scale),
    )
    torch.testing.assert_close(rest[0], advantages, atol=0, rtol=0)
    torch.testing.assert_close(rest[2], gradient, atol=0, rtol=0)
    assert torch.isfinite(gradient).all()
    assert {k: float(v) for k, v in rest[1].statistics.items()} == {
        k: float(v) for k, v in loss.statistics.items()
    }
    if loss.gap is not None:
        torch.testing.assert_close(rest[1].gap, loss.gap, atol=0, rtol=0)
        assert not loss.gap[~taught_S].any()


@every_term
def test_statistics_are_means_over_the_tokens_that_were_taught(method: Method) -> None:
    """Micro-batches' means, weighed by their counts, are the mean over the taught part alone."""
    taught_S = torch.tensor([True, False, True, False, True, False])
    advantages = normal(4)[:, :1].repeat(1, max(LENGTHS))
    context = step_context(method, SETTINGS, samples(None), advantages)
    partly = replace(context, taught=MASK & taught_S[:, None])
    drawn, _ = loss_and_gradient(method, partly, SHARE)
    count = sum(length for length, taught in zip(LENGTHS, taught_S, strict=True) if taught)
    names = set(drawn.counts)
    assert names
    assert all(int(tokens) == count for tokens in drawn.counts.values())
    assert "entropy" not in names
    assert "approx_kl" not in names
    full, _ = loss_and_gradient(method, context, 1.0)
    assert not full.counts
    assert names < set(full.statistics)


def test_step_statistics_are_of_the_taught_tokens() -> None:
    taught_S = torch.tensor([True, False, True, False, False, True])
    inside = MASK & taught_S[:, None]
    advantages = normal(4)
    adaptive = step_context(
        get_method("sdar_adaptive"), SETTINGS, samples(taught_S), advantages
    ).running
    assert adaptive == GapQuantiles.of_step(TEACHER - OLD, inside)
    centred = step_context(get_method("sdar_centred"), SETTINGS, samples(taught_S), advantages)
    gates = torch.sigmoid(5.0 * (TEACHER - OLD)[inside])
    assert centred.baseline == pytest.approx(float(gates.mean()), abs=1e-12)


@pytest.mark.parametrize("running", [None, GapQuantiles(-1.0, 0.0, 2.0)])
def test_a_step_without_a_taught_turn_leaves_the_running_quantiles(
    running: GapQuantiles | None,
) -> None:
    method = get_method("sdar_adaptive")
    context = step_context(method, SETTINGS, samples(NONE), normal(4), running)
    assert context.running == running
    loss, _ = loss_and_gradient(method, context, SHARE)
    assert loss.statistics["distillation_loss"] == 0


@every_term
def test_where_the_schedule_has_ended_the_term_the_teacher_is_not_needed(method: Method) -> None:
    """And the run is that of the method without the term."""
    advantages = normal(4)[:, :1].repeat(1, max(LENGTHS))
    ended = step_context(
        method, SETTINGS, replace(samples(None), teacher_log_probs=None), advantages, None, 0.0
    )
    student = (OLD - normal(3, 0.1).abs()).requires_grad_()
    batch = MicroBatch(student, OLD, advantages, MASK, reference_log_probs=OLD, entropy=OLD.abs())
    loss = training_loss(method, SETTINGS, batch, Aggregation("token-mean"), ended)
    assert (loss.gap, loss.gate) == (None, None)
    assert "distillation_loss" not in loss.statistics
    (gradient,) = torch.autograd.grad(loss.loss, student)
    plain = replace(get_method("grpo"), policy_coefficient=method.policy_coefficient)
    (expected,) = torch.autograd.grad(
        training_loss(plain, SETTINGS, batch, Aggregation("token-mean")).loss, student
    )
    torch.testing.assert_close(gradient, expected, atol=0, rtol=0)
    with pytest.raises(SdarError, match="teacher_log_probs"):
        training_loss(method, SETTINGS, batch, Aggregation("token-mean"), StepContext())


@every_term
def test_the_schedule_scales_the_term(method: Method) -> None:
    advantages = normal(4)[:, :1].repeat(1, max(LENGTHS))
    context = step_context(method, SETTINGS, samples(None), advantages)
    gradients = [
        loss_and_gradient(method, replace(context, coefficient_left=left), 1.0)[1]
        for left in (1.0, 0.5, 1e-300)
    ]
    torch.testing.assert_close(
        gradients[0] - gradients[2], 2 * (gradients[1] - gradients[2]), atol=1e-12, rtol=1e-9
    )


# The schedules.


def test_a_constant_coefficient_stays() -> None:
    schedule = TeachingSchedule()
    assert [schedule.left(step, NOT_RETIRED) for step in (0, 10, 10**6)] == [1.0, 1.0, 1.0]
    assert schedule.after(NOT_RETIRED, 0.0) == NOT_RETIRED


def test_linear_ends_at_its_step() -> None:
    schedule = TeachingSchedule("linear", steps=4)
    left = [schedule.left(step, NOT_RETIRED) for step in range(7)]
    assert left == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0, 0.0]


def test_retire_ends_where_the_mean_has_closed_and_for_good() -> None:
    schedule = TeachingSchedule("retire", below=0.2, over=3)
    state, left = NOT_RETIRED, []
    for step, size in enumerate([0.5, 0.1, 0.1, 0.1, 9.0, None]):
        left.append(schedule.left(step, state))
        state = schedule.after(state, size)
        state = Retirement.from_state(json.loads(json.dumps(state.to_state())))
    # The mean of the first three is .233, that of the next .1.
    assert left == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    assert state.retired


def test_retire_waits_for_as_many_steps_as_it_takes_the_mean_over() -> None:
    schedule = TeachingSchedule("retire", below=0.2, over=2)
    first = schedule.after(NOT_RETIRED, 0.0)
    assert not first.retired
    # A step without a number, or without a taught turn, counts as none.
    for nothing in (None, math.nan, math.inf):
        assert schedule.after(first, nothing) == first
    assert schedule.after(first, 0.0).retired


def test_the_teacher_is_asked_for_a_term_that_is_on_and_for_credit() -> None:
    for method in METHODS.values():
        assert method.asks_teacher(1.0) == method.needs_teacher
        assert method.asks_teacher(0.0) == (method.token_credit != "uniform")
