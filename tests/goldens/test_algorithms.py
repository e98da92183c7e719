"""Every number of the golden file, losses and gradients: 1e-9 in float64, 1e-5 in float32."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdar.algorithms import (
    LossSettings,
    aggregate,
    clipped_policy_loss,
    gate_statistics,
    gated_distillation_loss,
    get_method,
    gigpo_advantages,
    grpo_advantages,
    reference_kl,
    rlsd_token_advantages,
    skill_sd_loss,
    training_loss,
)
from sdar.algorithms.gates import gap_gate, teacher_gap

ENTRIES = {
    "sdar_gated_loss": 7,
    "skill_sd_loss": 3,
    "rlsd_token_advantages": 4,
    "grpo_advantages": 5,
    "clipped_policy_loss": 4,
    "reference_kl": 6,
    "sdar_total_loss": 2,
    "gigpo_advantages": 2,
}
CASES = [(name, index) for name, count in ENTRIES.items() for index in range(count)]
Entry = dict[str, Any]
Expect = Callable[[Any, Any], None]


def load(shared: Path) -> dict[str, list[Entry]]:
    return json.loads((shared / "goldens" / "algorithms.json").read_text())


def sdar_gated_loss(entry: Entry, dtype: torch.dtype, expect: Expect) -> None:
    student = torch.tensor(entry["student_log_probs"], dtype=dtype, requires_grad=True)
    teacher = torch.tensor(entry["teacher_log_probs"], dtype=dtype)
    mask = torch.tensor(entry["response_mask"], dtype=dtype)
    loss, statistics = gated_distillation_loss(
        student, teacher, mask, beta=entry["gate_beta"], loss_agg=entry["loss_agg"]
    )
    loss.backward()
    expect(loss, entry["loss"])
    expect(student.grad, entry["grad_student_log_probs"])
    gap = teacher_gap(student, teacher)
    of_step = gate_statistics(gap_gate(gap, beta=entry["gate_beta"]), gap, mask)
    for name in ("gate_mean", "gate_active_ratio", "teacher_gap_mean"):
        expect(statistics[name], entry[name])
        expect(of_step[name], entry[name])


def skill_sd(entry: Entry, dtype: torch.dtype, expect: Expect) -> None:
    student = torch.tensor(entry["student_log_probs"], dtype=dtype, requires_grad=True)
    teacher, old, mask = (
        torch.tensor(entry[key], dtype=dtype)
        for key in ("teacher_log_probs", "old_log_probs", "response_mask")
    )
    loss, _ = skill_sd_loss(student, teacher, old, mask, loss_agg=entry["loss_agg"])
    loss.backward()
    expect(loss, entry["loss"])
    expect(student.grad, entry["grad_student_log_probs"])


def rlsd(entry: Entry, dtype: torch.dtype, expect: Expect) -> None:
    tensors = (
        torch.tensor(entry[key], dtype=dtype)
        for key in ("seq_advantages", "student_log_probs", "teacher_log_probs", "response_mask")
    )
    result = rlsd_token_advantages(*tensors, mix=entry["mix"], clip=entry["clip"])
    expect(result, entry["token_advantages"])


def grpo(entry: Entry, dtype: torch.dtype, expect: Expect) -> None:
    result = grpo_advantages(
        torch.tensor(entry["step_return"], dtype=dtype),
        entry["group"],
        entry["episode"],
        statistics_over=entry["statistics_over"],
        normalize_by_std=entry["normalize_by_std"],
        epsilon=entry["epsilon"],
    )
    assert result.dtype == dtype
    expect(result, entry["advantages"])


def gigpo(entry: Entry, dtype: torch.dtype, expect: Expect) -> None:
    result = gigpo_advantages(
        torch.tensor(entry["episode_return"], dtype=dtype),
        torch.tensor(entry["discounted_step_return"], dtype=dtype),
        entry["group"],
        entry["episode"],
        entry["anchor_observation"],
        mode=entry["mode"],
        step_advantage_weight=entry["step_advantage_weight"],
        epsilon=entry["epsilon"],
    )
    expect(result, entry["advantages"])


def policy(entry: Entry, dtype: torch.dtype, expect: Expect) -> None:
    current = torch.tensor(entry["log_probs"], dtype=dtype, requires_grad=True)
    old, advantages, mask = (
        torch.tensor(entry[key], dtype=dtype)
        for key in ("old_log_probs", "advantages", "response_mask")
    )
    loss, statistics = clipped_policy_loss(
        old,
        current,
        advantages,
        mask,
        clip_low=entry["clip_low"],
        clip_high=entry["clip_high"],
        dual_clip=entry["dual_clip"],
        loss_agg=entry["loss_agg"],
    )
    loss.backward()
    expect(loss, entry["loss"])
    expect(current.grad, entry["grad_log_probs"])
    for name in ("clip_fraction", "approx_kl", "dual_clip_fraction"):
        expect(statistics[name], entry[name])


def kl(entry: Entry, dtype: torch.dtype, expect: Expect) -> None:
    current = torch.tensor(entry["log_probs"], dtype=dtype, requires_grad=True)
    reference = torch.tensor(entry["reference_log_probs"], dtype=dtype)
    kl_ST = reference_kl(current, reference, estimator=entry["estimator"])
    loss = aggregate(kl_ST, torch.ones_like(kl_ST))
    loss.backward()
    expect(kl_ST, entry["kl"])
    expect(loss, entry["loss"])
    expect(current.grad, entry["grad_log_probs"])


def total(entry: Entry, dtype: torch.dtype, expect: Expect) -> None:
    tensors = {
        key: torch.tensor(entry[key], dtype=dtype)
        for key in (
            "old_log_probs",
            "log_probs",
            "advantages",
            "response_mask",
            "teacher_log_probs",
            "reference_log_probs",
        )
    }
    tensors["log_probs"].requires_grad_()
    settings = LossSettings(
        clip_low=entry["clip_low"],
        clip_high=entry["clip_high"],
        dual_clip=entry["dual_clip"],
        loss_agg=entry["loss_agg"],
        kl_coefficient=entry["kl_coef"],
        kl_estimator=entry["kl_estimator"],
        entropy_coefficient=0.0,
        distillation_coefficient=entry["distill_coef"],
        beta=entry["gate_beta"],
    )
    result = training_loss(get_method("sdar"), settings, **tensors)
    result.loss.backward()
    expect(result.loss, entry["loss"])
    expect(tensors["log_probs"].grad, entry["grad_log_probs"])


CHECKS: dict[str, Callable[[Entry, torch.dtype, Expect], None]] = {
    "sdar_gated_loss": sdar_gated_loss,
    "skill_sd_loss": skill_sd,
    "rlsd_token_advantages": rlsd,
    "grpo_advantages": grpo,
    "clipped_policy_loss": policy,
    "reference_kl": kl,
    "sdar_total_loss": total,
    "gigpo_advantages": gigpo,
}


def test_every_entry_is_checked(shared: Path) -> None:
    assert {name: len(entries) for name, entries in load(shared).items()} == ENTRIES


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("name", "index"), CASES)
def test_golden(shared: Path, name: str, index: int, dtype: torch.dtype, tolerance: float) -> None:
    def expect(actual: Tensor | float, golden: Any) -> None:
        actual = torch.as_tensor(actual, dtype=torch.float64).detach()
        golden = torch.tensor(golden, dtype=torch.float64)
        torch.testing.assert_close(actual, golden, rtol=0.0, atol=tolerance)

    CHECKS[name](load(shared)[name][index], dtype, expect)
