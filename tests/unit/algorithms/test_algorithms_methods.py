"""Carrying the declarations out needs nothing beside them."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from default_settings import ADVANTAGES
from default_settings import LOSS as SETTINGS
from torch import Tensor

from sdar.algorithms.advantages import grpo_advantages, rlsd_token_advantages
from sdar.algorithms.aggregation import Aggregation, aggregate
from sdar.algorithms.context import StepContext
from sdar.algorithms.distillation import (
    distillation_weight,
    gated_distillation_loss,
    reverse_kl_loss,
    skill_sd_loss,
    vocabulary_reverse_kl,
)
from sdar.algorithms.gates import teacher_gap
from sdar.algorithms.inputs import MicroBatch, StepSamples
from sdar.algorithms.loss import LossSettings, TrainingLoss, training_loss
from sdar.algorithms.policy_loss import clipped_policy_loss, reference_kl
from sdar.algorithms.step import step_advantages, step_context
from sdar.errors import SdarError
from sdar.methods.declarations import METHODS, Method, get_method

TRAINED = [method for method in METHODS.values() if method.trained]
TOKEN_MEAN = Aggregation("token-mean")


def tokens(samples: int = 6, width: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)

    def normal(scale: float = 1.0) -> Tensor:
        return scale * torch.randn(samples, width, generator=generator, dtype=torch.float64)

    student = -normal().abs() - 0.1
    lengths = torch.randint(1, width + 1, (samples, 1), generator=generator)
    old, advantages = student + normal(0.3), normal()[:, :1].repeat(1, width)
    # A ratio of 1.22 on a good token: beyond a clip range of .2 and within one of .24.
    old[0, 0], advantages[0] = student[0, 0] - 0.2, 1.0
    return {
        "log_probs": student.requires_grad_(),
        "old_log_probs": old,
        "advantages": advantages,
        "response_mask": (torch.arange(width) < lengths).double(),
        "teacher_log_probs": student.detach() + normal(0.5),
        "reference_log_probs": student.detach() + normal(0.3),
        "entropy": normal().abs(),
    }


def divergence(batch: dict[str, Tensor]) -> Tensor:
    """[S, T] over a vocabulary of two: the sampled token, and the other one."""
    student = torch.stack([batch["log_probs"], (-batch["log_probs"].expm1()).log()], dim=-1)
    teacher = batch["teacher_log_probs"]
    teacher = torch.stack([teacher, torch.zeros_like(teacher)], dim=-1).log_softmax(-1)
    return vocabulary_reverse_kl(student.flatten(0, 1), teacher.flatten(0, 1)).view(
        batch["log_probs"].shape
    )


def context_of(method: Method, batch: dict[str, Tensor]) -> StepContext:
    """With the batch as the whole step."""
    samples = replace(
        samples_of_a_step(), **{k: batch[k] for k in ("old_log_probs", "teacher_log_probs")}
    )
    return step_context(method, SETTINGS, samples, batch["advantages"])


def loss_of(
    method: Method, batch: dict[str, Tensor], settings: LossSettings = SETTINGS
) -> TrainingLoss:
    given = MicroBatch(**batch, teacher_divergence=divergence(batch))
    return training_loss(method, settings, given, TOKEN_MEAN, context_of(method, batch))


def samples_of_a_step() -> StepSamples:
    batch = tokens()
    return StepSamples(
        step_return=torch.tensor([10.0, 9.9, 0.0, 0.0, 10.0, 0.0], dtype=torch.float64),
        step_reward=torch.tensor([0.0, 10.0, 0.0, 0.0, 10.0, 0.0], dtype=torch.float64),
        group=["a", "a", "a", "a", "b", "b"],
        episode=["a0", "a0", "a1", "a1", "b0", "b1"],
        turn=[0, 1, 0, 1, 0, 0],
        anchor_observation=["room", "hall", "room", "room", "room", "room"],
        success=torch.tensor([1, 1, 0, 0, 1, 0]),
        valid=torch.tensor([True, False, True, True, False, True]),
        response_mask=batch["response_mask"],
        old_log_probs=batch["old_log_probs"],
        teacher_log_probs=batch["teacher_log_probs"],
    )


@pytest.mark.parametrize("method", TRAINED, ids=lambda method: method.name)
def test_every_trained_method_runs_and_has_a_gradient_on_the_response_alone(method) -> None:
    samples = samples_of_a_step()
    batch = tokens()
    advantages = step_advantages(method, samples, ADVANTAGES, step=0)
    assert advantages.shape == batch["response_mask"].shape
    assert advantages[batch["response_mask"] == 0].eq(0).all()
    result = loss_of(method, {**batch, "advantages": advantages})
    result.loss.backward()
    gradient = batch["log_probs"].grad
    assert gradient is not None
    assert gradient[batch["response_mask"] == 0].eq(0).all()
    assert gradient[batch["response_mask"] != 0].ne(0).any()
    assert all(torch.isfinite(value) for value in result.statistics.values())
    assert (result.gap is not None) == (method.distillation != "none")
    assert (result.gate is not None) == (method.gate_kind("gap") is not None)


def written_out(name: str, b: dict[str, Tensor]) -> Tensor:
    """The total loss of a method, written out from its formula."""
    mask = b["response_mask"]

    def mean(term: tuple[Tensor, dict[str, Tensor]]) -> Tensor:
        return aggregate(term[0], mask, TOKEN_MEAN)

    clip = {"clip_low": 0.2, "clip_high": 0.24 if name == "agent_opsd" else 0.2, "dual_clip": 3.0}
    loss = mean(
        clipped_policy_loss(b["old_log_probs"], b["log_probs"], b["advantages"], mask, **clip)
    )
    if name == "opsd":
        loss = loss * 0
    loss = loss - 0.001 * (b["entropy"] * mask).sum() / mask.sum()
    kl = reference_kl(b["log_probs"], b["reference_log_probs"])
    loss = loss + 0.01 * aggregate(kl, mask, TOKEN_MEAN)
    both = (b["log_probs"], b["teacher_log_probs"])
    if name in ("sdar", "opsd", "sdar_gigpo", "grpo_opsd"):
        beta = 0.0 if name == "grpo_opsd" else 5.0
        gate = distillation_weight("gap", teacher_gap(*both), beta=beta)
        loss = loss + 0.1 * mean(gated_distillation_loss(*both, mask, gate))
    if name == "skill_sd":
        loss = loss + 0.001 * mean(skill_sd_loss(*both, b["old_log_probs"], mask))
    if name == "reverse_kl":
        loss = loss + 0.1 * mean(reverse_kl_loss(*both, mask))
    if name == "reverse_kl_full":
        loss = loss + 0.1 * (divergence(b) * mask).sum() / mask.sum()
    if name.startswith("sdar_") and name != "sdar_gigpo":
        loss = loss + 0.1 * (weight(name, b) * -b["log_probs"] * mask).sum() / mask.sum()
    return loss


def weight(name: str, b: dict[str, Tensor]) -> Tensor:
    """What our own gated methods multiply -log p_student with, written out."""
    inside = b["response_mask"] != 0
    gap = b["teacher_log_probs"] - b["log_probs"].detach()
    old_gap = (b["teacher_log_probs"] - b["old_log_probs"])[inside]
    gate = torch.sigmoid(5 * gap)
    if name == "sdar_centred":
        return gate - torch.sigmoid(5 * old_gap).mean()
    if name == "sdar_adaptive":
        low, centre, high = (torch.quantile(old_gap, q) for q in (0.1, 0.5, 0.9))
        return torch.tanh((gap - centre) / max(float(high - low) / 2, 1 / 5)).clamp(min=0)
    opposed = (b["advantages"] < 0) | ~samples_of_a_step().valid[:, None]
    return gate * ~opposed


@pytest.mark.parametrize("method", TRAINED, ids=lambda method: method.name)
def test_the_loss_is_the_formula_written_out(method) -> None:
    batch = tokens()
    (actual,) = torch.autograd.grad(loss_of(method, batch).loss, batch["log_probs"])
    (expected,) = torch.autograd.grad(written_out(method.name, batch), batch["log_probs"])
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_advantages_follow_the_declaration() -> None:
    samples = samples_of_a_step()
    mask = samples.response_mask
    plain = grpo_advantages(samples.step_return, samples.group, samples.episode)
    for name in ("grpo", "sdar", "opsd", "skill_grpo", "reverse_kl"):
        assert torch.equal(
            step_advantages(get_method(name), samples, ADVANTAGES, step=0),
            plain.unsqueeze(1) * mask,
        )
    rlsd = rlsd_token_advantages(
        plain, samples.old_log_probs, samples.teacher_log_probs, mask, mix=0.25
    )
    assert torch.equal(step_advantages(get_method("rlsd"), samples, ADVANTAGES, step=50), rlsd)
    turn_term = (
        step_advantages(get_method("gigpo"), samples, ADVANTAGES, step=0)
        - plain.unsqueeze(1) * mask
    )
    # Turns 0, 2 and 3 of group a stood before the same observation; the others are alone.
    assert turn_term[[1]].eq(0).all()
    assert turn_term[[0, 2, 3], 0].ne(0).all()
    settings = replace(ADVANTAGES, normalize_by_std=False, statistics_over="episodes")
    centred = step_advantages(get_method("sdar"), samples, settings, step=0)
    assert centred[0, 0] == pytest.approx(10 - (9.95 + 0) / 2)


ADDED_TO_GRPO = (
    "sdar", "sdar_centred", "sdar_adaptive", "sdar_objective", "reverse_kl", "reverse_kl_full",
)  # fmt: skip


@pytest.mark.parametrize("added", ADDED_TO_GRPO)
def test_coefficient_zero_is_grpo_bit_for_bit(added: str) -> None:
    settings = replace(SETTINGS, distillation_coefficient=0.0)
    results = []
    for name in ("grpo", added):
        batch = tokens()
        result = loss_of(get_method(name), batch, settings)
        result.loss.backward()
        results.append((result.loss.detach(), batch["log_probs"].grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_the_entropy_bonus_raises_the_entropy() -> None:
    batch = tokens()
    batch["entropy"].requires_grad_()
    training_loss(get_method("grpo"), SETTINGS, MicroBatch(**batch), TOKEN_MEAN).loss.backward()
    mask = batch["response_mask"]
    torch.testing.assert_close(batch["entropy"].grad, -0.001 * mask / mask.sum())


@pytest.mark.parametrize("method", TRAINED, ids=lambda method: method.name)
def test_the_total_adds_up_over_micro_batches(method) -> None:
    batch = tokens()
    result = loss_of(method, batch)
    count = batch["response_mask"].sum()
    context = context_of(method, batch)
    parts = [
        training_loss(
            method,
            SETTINGS,
            MicroBatch(
                **{name: value[rows] for name, value in batch.items()},
                teacher_divergence=divergence(batch)[rows],
            ),
            Aggregation("token-mean", count),
            context.of(lambda values, rows=rows: values[rows]),
        ).loss
        for rows in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    torch.testing.assert_close(torch.stack(parts).sum(), result.loss, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("sdar", "teacher_log_probs"),
        ("grpo", "reference_log_probs"),
        ("grpo", "entropy"),
        ("reverse_kl_full", "teacher_divergence"),
        ("sdar_centred", "context"),
        ("sdar_adaptive", "context"),
        ("sdar_objective", "context"),
    ],
)
def test_a_missing_input_is_named(name: str, missing: str) -> None:
    batch = tokens()
    batch.pop(missing, None)
    with pytest.raises(SdarError, match=f"method '{name}' needs {missing}"):
        training_loss(get_method(name), SETTINGS, MicroBatch(**batch), TOKEN_MEAN)


def test_missing_observations_are_named() -> None:
    samples = replace(samples_of_a_step(), anchor_observation=None)
    with pytest.raises(SdarError, match="method 'gigpo' needs anchor_observation"):
        step_advantages(get_method("gigpo"), samples, ADVANTAGES, step=0)


def test_the_core_imports_torch_alone() -> None:
    code = (
        "import sdar.algorithms, sys; "
        "heavy = {'transformers', 'pydantic', 'mlflow', 'textworld', 'accelerate'}; "
        "own = {m for m in sys.modules if m.startswith('sdar.')}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); "
        "known = ('sdar.algorithms', 'sdar.methods', 'sdar.errors'); "
        "assert all(m.startswith(known) for m in own), own"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
