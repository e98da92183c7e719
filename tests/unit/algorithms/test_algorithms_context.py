"""The step's constants: what they are, at which limits they vanish, and what cannot change them."""

import json
import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdar.algorithms.aggregation import Aggregation
from sdar.algorithms.context import GapQuantiles, StepContext
from sdar.algorithms.distillation import vocabulary_reverse_kl
from sdar.algorithms.gates import compute_gate
from sdar.algorithms.inputs import MicroBatch, StepSamples
from sdar.algorithms.loss import LossSettings, training_loss
from sdar.algorithms.step import step_context
from sdar.errors import SdarError
from sdar.methods.declarations import METHODS, Method, get_method
from sdar.methods.gates import RUN_GATES

some = settings(max_examples=25, deadline=None)
TOKEN_MEAN = Aggregation("token-mean")
few = settings(max_examples=8, deadline=None)  # for every method and aggregation
TERMS_ADDED = [method for method in METHODS.values() if method.distillation != "none"]
every_method = pytest.mark.parametrize("method", TERMS_ADDED, ids=lambda method: method.name)
every_aggregation = pytest.mark.parametrize(
    "loss_agg", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"]
)


@dataclass(frozen=True)
class Step:
    """[S, T] float64, responses on the left; `valid` is [S]."""

    log_probs: Tensor
    old: Tensor
    teacher: Tensor
    entropy: Tensor
    old_entropy: Tensor
    advantages: Tensor
    mask: Tensor
    valid: Tensor

    def samples(self) -> StepSamples:
        count = len(self.mask)
        return StepSamples(
            step_return=torch.zeros(count, dtype=torch.float64),
            group=[0] * count,
            episode=list(range(count)),
            turn=[0] * count,
            valid=self.valid,
            response_mask=self.mask,
            old_log_probs=self.old,
            old_entropy=self.old_entropy,
            teacher_log_probs=self.teacher,
        )

    def context(
        self, method: Method, run: LossSettings, running: GapQuantiles | None = None
    ) -> StepContext:
        return step_context(method, run, self.samples(), self.advantages, running)

    def part(self, rows: Tensor) -> "Step":
        return Step(**{name: value[rows] for name, value in vars(self).items()})


def make_step(seed: int, samples: int, tokens: int) -> Step:
    generator = torch.Generator().manual_seed(seed)

    def normal(scale: float = 1.0) -> Tensor:
        return scale * torch.randn(samples, tokens, generator=generator, dtype=torch.float64)

    old = -normal().abs() - 0.1
    lengths = torch.randint(1, tokens + 1, (samples, 1), generator=generator)
    return Step(
        log_probs=old - 0.05 * normal().abs(),
        old=old,
        teacher=old + normal(),
        entropy=normal().abs(),
        old_entropy=normal().abs(),
        advantages=normal()[:, :1].repeat(1, tokens),
        mask=torch.arange(tokens) < lengths,
        valid=torch.rand(samples, generator=generator) < 0.7,
    )


steps = st.builds(
    make_step, st.integers(0, 2**31), samples=st.integers(1, 6), tokens=st.integers(1, 7)
)
gates = st.sampled_from(RUN_GATES)
NO_RUN = LossSettings(
    clip_low=0.2,
    clip_high=0.2,
    dual_clip=3.0,
    kl_coefficient=0.0,
    kl_estimator="k3",
    entropy_coefficient=0.001,
    distillation_coefficient=1.0,
    beta=5.0,
    gate="gap",
)


def loss_and_gradient(
    step: Step,
    method: Method,
    run: LossSettings,
    context: StepContext,
    aggregation: Aggregation = TOKEN_MEAN,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The loss, its gradient at the student's log-probs, and the weights it recorded."""
    student = step.log_probs.clone().requires_grad_()
    inside = step.mask != 0
    # A vocabulary of two: the sampled token and the other one.
    student_NV = torch.stack([student, (-student.expm1()).log()], dim=-1)[inside]
    teacher_NV = torch.stack([step.teacher, torch.zeros_like(step.teacher)], dim=-1)[inside]
    divergence_N = vocabulary_reverse_kl(student_NV, teacher_NV.log_softmax(-1))
    batch = MicroBatch(
        log_probs=student,
        old_log_probs=step.old,
        advantages=step.advantages,
        response_mask=step.mask,
        teacher_log_probs=step.teacher,
        entropy=step.entropy,
        teacher_divergence=student.new_zeros(inside.shape).masked_scatter(inside, divergence_N),
    )
    result = training_loss(method, run, batch, aggregation, context)
    (gradient,) = torch.autograd.grad(result.loss, student)
    return result.loss.detach(), gradient, result.gate


def close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-11)


# Invariances, of the constants and of the loss that uses them.


@every_method
@every_aggregation
@few
@given(step=steps, gate=gates, size=st.integers(1, 4), seed=st.integers(0, 99))
def test_order_and_micro_batches_change_nothing(
    method: Method, loss_agg: str, step: Step, gate: str, size: int, seed: int
) -> None:
    run = replace(NO_RUN, gate=gate)
    context = step.context(method, run)
    loss, gradient, weights = loss_and_gradient(step, method, run, context, Aggregation(loss_agg))
    order = torch.randperm(len(step.mask), generator=torch.Generator().manual_seed(seed))
    shuffled = step.part(order)
    other = shuffled.context(method, run)
    assert other.baseline == pytest.approx(context.baseline, abs=1e-14)
    assert (other.centre, other.scale, other.running) == (
        context.centre,
        context.scale,
        context.running,
    )
    count = step.mask.sum() if loss_agg == "token-mean" else torch.tensor(len(step.mask))
    total = torch.zeros(())
    for first in range(0, len(order), size):
        rows = torch.arange(first, min(first + size, len(order)))
        part_loss, part_gradient, part_weights = loss_and_gradient(
            shuffled.part(rows),
            method,
            run,
            other.of(lambda values, rows=rows: values[rows]),
            Aggregation(loss_agg, count),
        )
        total = total + part_loss
        close(part_gradient, gradient[order[rows]])
        if weights is not None:
            close(part_weights, weights[order[rows]])
    close(total, loss)


@every_method
@every_aggregation
@few
@given(step=steps, gate=gates)
def test_padding_side_and_packing_change_nothing(
    method: Method, loss_agg: str, step: Step, gate: str
) -> None:
    run = replace(NO_RUN, gate=gate)
    context = step.context(method, run)
    loss, gradient, _ = loss_and_gradient(step, method, run, context, Aggregation(loss_agg))

    def to_the_right(value: Tensor) -> Tensor:
        return torch.cat([torch.full((len(value), 3), -1.0, dtype=torch.float64), value], dim=1)

    def padded(name: str, value: Tensor) -> Tensor:
        if name == "valid":
            return value
        if name == "mask":
            return torch.cat([torch.zeros(len(value), 3, dtype=torch.bool), value], dim=1)
        return to_the_right(value)

    moved = Step(**{name: padded(name, value) for name, value in vars(step).items()})
    moved_context = moved.context(method, run)
    assert replace(moved_context, keep=None) == replace(context, keep=None)
    moved_loss, moved_gradient, _ = loss_and_gradient(
        moved, method, run, moved_context, Aggregation(loss_agg)
    )
    close(moved_loss, loss)
    close(moved_gradient[:, 3:], gradient)

    inside = step.mask
    packed = Step(
        **{
            name: value if name == "valid" else value[inside].unsqueeze(0)
            for name, value in vars(step).items()
        }
    )
    sequence = torch.arange(len(inside)).unsqueeze(1).expand(inside.shape)[inside].unsqueeze(0)
    cut = context.of(lambda values: values[inside].unsqueeze(0))
    packed_loss, packed_gradient, _ = loss_and_gradient(
        packed, method, run, cut, Aggregation(loss_agg, sequence=sequence)
    )
    close(packed_loss, loss)
    close(packed_gradient[0], gradient[inside])


@every_method
@some
@given(step=steps, gate=gates, junk=st.sampled_from([3.0, -1e4, torch.inf, torch.nan]))
def test_masked_tokens_change_nothing(method: Method, step: Step, gate: str, junk: float) -> None:
    run = replace(NO_RUN, gate=gate)
    spoilt = Step(
        **{
            name: value if name in ("mask", "valid") else value.masked_fill(~step.mask, junk)
            for name, value in vars(step).items()
        }
    )
    # A log-prob of the student there would be junk before the vocabulary of two is made of it.
    spoilt = replace(spoilt, log_probs=step.log_probs.masked_fill(~step.mask, -7.0))
    context, other = step.context(method, run), spoilt.context(method, run)
    assert replace(other, keep=None) == replace(context, keep=None)
    expected = loss_and_gradient(step, method, run, context)
    found = loss_and_gradient(spoilt, method, run, other)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    if expected[2] is not None:
        assert torch.equal(found[2], expected[2])


@every_method
@some
@given(step=steps, gate=gates)
def test_no_gradient_reaches_the_teacher_the_gate_or_the_context(
    method: Method, step: Step, gate: str
) -> None:
    watched = Step(
        **{
            name: value if name in ("mask", "valid") else value.clone().requires_grad_()
            for name, value in vars(step).items()
        }
    )
    run = replace(NO_RUN, gate=gate, entropy_coefficient=0.0)
    context = watched.context(method, run)
    assert context.keep is None or not context.keep.requires_grad
    divergence_NV = torch.stack([watched.log_probs, watched.log_probs], dim=-1).log_softmax(-1)
    teacher_NV = torch.stack([watched.teacher, watched.old], dim=-1)
    batch = MicroBatch(
        log_probs=watched.log_probs,
        old_log_probs=watched.old,
        advantages=watched.advantages,
        response_mask=watched.mask,
        teacher_log_probs=watched.teacher,
        entropy=watched.entropy,
        teacher_divergence=vocabulary_reverse_kl(divergence_NV, teacher_NV),
    )
    training_loss(method, run, batch, TOKEN_MEAN, context).loss.backward()
    assert watched.log_probs.grad is not None
    for name in ("teacher", "old", "entropy", "old_entropy", "advantages"):
        assert getattr(watched, name).grad is None, name


# What the constants are, and their limits.


@some
@given(step=steps, gate=gates, beta=st.floats(0, 10))
def test_the_baseline_is_the_mean_gate_of_the_steps_start(
    step: Step, gate: str, beta: float
) -> None:
    run = replace(NO_RUN, gate=gate, beta=beta)
    method = get_method("sdar_centred")
    context = step.context(method, run)
    gap, entropy = step.teacher - step.old, step.old_entropy
    expected = compute_gate(gate, gap, beta=beta, entropy=entropy)[step.mask].mean()
    assert context.baseline == pytest.approx(float(expected), rel=1e-14)
    # Before the first update the weights applied are centred.
    first = replace(step, log_probs=step.old, entropy=step.old_entropy)
    weights = loss_and_gradient(first, method, run, context)[2]
    assert weights is not None
    assert abs(float(weights[step.mask].mean())) < 1e-14


@some
@given(step=steps, choice=st.sampled_from([{"beta": 0.0}, {"gate": "none"}]), gate=gates)
def test_centred_with_a_constant_gate_is_exactly_grpo(step: Step, choice: dict, gate: str) -> None:
    run = replace(NO_RUN, **{"gate": gate, **choice})
    method = get_method("sdar_centred")
    loss, gradient, weights = loss_and_gradient(step, method, run, step.context(method, run))
    assert weights is not None
    assert weights.eq(0).all()
    grpo = loss_and_gradient(step, get_method("grpo"), run, StepContext())
    assert torch.equal(loss, grpo[0])
    assert torch.equal(gradient, grpo[1])


@some
@given(step=steps, beta=st.floats(0.1, 20))
def test_adaptive_follows_the_quantiles_and_beta_bounds_its_sharpness(
    step: Step, beta: float
) -> None:
    context = step.context(get_method("sdar_adaptive"), replace(NO_RUN, beta=beta))
    gaps = (step.teacher - step.old)[step.mask]
    low, middle, high = (float(torch.quantile(gaps, q)) for q in (0.1, 0.5, 0.9))
    assert context.centre == pytest.approx(middle, abs=1e-14)
    assert context.scale == pytest.approx(max((high - low) / 2, 1 / beta), abs=1e-14)
    assert context.running == GapQuantiles(*(pytest.approx(q) for q in (low, middle, high)))


@some
@given(step=steps, gap=st.floats(-5, 5), beta=st.sampled_from([0.0, 5.0, 1e9]))
def test_adaptive_without_information_weighs_nothing(step: Step, gap: float, beta: float) -> None:
    """All gaps equal, or beta 0: GRPO, where SDAR would weigh each token with one half."""
    run = replace(NO_RUN, beta=beta)
    method = get_method("sdar_adaptive")
    # On a grid, so that the gap is the same number for every token.
    old = (step.old * 64).round() / 64
    equal = replace(step, old=old, log_probs=old, teacher=old + round(gap * 64) / 64)
    steps_before = GapQuantiles(*[round(gap * 64) / 64] * 3)
    for running in (None, steps_before):
        context = equal.context(method, run, running)
        assert loss_and_gradient(equal, method, run, context)[2].eq(0).all()
    if beta == 0:
        weights = loss_and_gradient(step, method, run, step.context(method, run))[2]
        assert weights.eq(0).all()


def test_adaptive_is_a_step_when_sharp_and_one_far_above() -> None:
    gap = torch.tensor([-3.0, 0.2999, 0.3, 0.3001, 0.5, 40.0], dtype=torch.float64)
    sharp = compute_gate("adaptive", gap, beta=1e9, centre=0.3, scale=1e-9)
    assert sharp.tolist() == [0, 0, 0, 1, 1, 1]
    soft = compute_gate("adaptive", gap, beta=5.0, centre=0.3, scale=0.2)
    assert soft[4] == pytest.approx(math.tanh(1))
    assert soft[5] == 1
    assert (soft.diff() >= 0).all()


def test_running_quantiles_keep_nine_tenths() -> None:
    first, second = GapQuantiles(-1.0, 0.0, 2.0), GapQuantiles(-2.0, 1.0, 4.0)
    after = first.followed_by(second)
    assert (after.q10, after.median, after.q90) == pytest.approx((-1.1, 0.1, 2.2))
    assert after.followed_by(after) == after
    assert GapQuantiles.from_state(json.loads(json.dumps(after.to_state()))) == after
    assert first.scale(5.0) == 1.5
    assert first.scale(0.5) == 2.0
    assert first.scale(0.0) == math.inf


@some
@given(step=steps, later=steps)
def test_a_step_uses_the_running_quantiles_with_its_own_taken_in(step: Step, later: Step) -> None:
    method = get_method("sdar_adaptive")
    first = step.context(method, NO_RUN)
    second = later.context(method, NO_RUN, first.running)
    alone = later.context(method, NO_RUN)
    assert second.centre == pytest.approx(0.9 * first.centre + 0.1 * alone.centre, abs=1e-13)
    assert second.running is not None
    assert second.running.median == second.centre
    again = later.context(method, NO_RUN, first.running)
    assert again == second


@some
@given(step=steps, gate=gates)
def test_objective_drops_what_opposes_the_reward_and_nothing_else(step: Step, gate: str) -> None:
    run = replace(NO_RUN, gate=gate)
    sdar, objective = get_method("sdar"), get_method("sdar_objective")
    weights = loss_and_gradient(step, objective, run, step.context(objective, run))[2]
    of_sdar = loss_and_gradient(step, sdar, run, StepContext())[2]
    assert weights is not None
    assert of_sdar is not None
    opposed = (step.advantages < 0) | ~step.valid[:, None]
    assert torch.equal(weights, of_sdar * ~opposed)


@some
@given(step=steps)
def test_objective_lies_between_grpo_and_sdar(step: Step) -> None:
    sdar, objective, grpo = map(get_method, ("sdar", "sdar_objective", "grpo"))
    good = replace(step, advantages=step.advantages.abs(), valid=torch.ones_like(step.valid))
    bad = replace(step, advantages=-step.advantages.abs() - 0.1)
    # A group without any preference: the dense signal stays.
    tied = replace(good, advantages=torch.zeros_like(step.advantages))
    invalid = replace(good, valid=torch.zeros_like(step.valid))
    for case, limit in ((good, sdar), (tied, sdar), (bad, grpo), (invalid, grpo)):
        found = loss_and_gradient(case, objective, NO_RUN, case.context(objective, NO_RUN))
        expected = loss_and_gradient(case, limit, NO_RUN, StepContext())
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


def test_methods_without_constants_get_the_neutral_context() -> None:
    step = make_step(0, 3, 4)
    for name in ("grpo", "sdar", "opsd", "reverse_kl_full", "agent_opsd"):
        assert step.context(get_method(name), NO_RUN) == StepContext()


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("sdar_centred", "old_entropy"),
        ("sdar_centred", "teacher_log_probs"),
        ("sdar_adaptive", "old_log_probs"),
        ("sdar_objective", "valid"),
    ],
)
def test_what_a_context_lacks_is_named(name: str, missing: str) -> None:
    step = make_step(0, 3, 4)
    samples = replace(step.samples(), **{missing: None})
    with pytest.raises(SdarError, match=f"method '{name}' needs {missing}"):
        step_context(get_method(name), replace(NO_RUN, gate="entropy"), samples, step.advantages)


def test_a_step_without_tokens_has_no_quantiles() -> None:
    with pytest.raises(SdarError, match="no response token"):
        GapQuantiles.of_step(torch.zeros(2, 3), torch.zeros(2, 3))
