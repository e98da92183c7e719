"""Recorded results of the reference's formulas against ours: losses, gradients, advantages.

A file of cases is a dictionary from a formula's name to its cases, each with the inputs, the
settings and the expected values (arrays `[samples][tokens]`). `sdar replay` and the tests run them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sdar.algorithms.advantages import gigpo_advantages, grpo_advantages, rlsd_token_advantages
from sdar.algorithms.aggregation import Aggregation, aggregate
from sdar.algorithms.distillation import (
    distillation_weight,
    gated_distillation_loss,
    skill_sd_loss,
)
from sdar.algorithms.gates import gap_gate, gate_statistics, teacher_gap
from sdar.algorithms.inputs import MicroBatch
from sdar.algorithms.loss import LossSettings, training_loss
from sdar.algorithms.policy_loss import clipped_policy_loss, reference_kl
from sdar.methods.declarations import get_method

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}
Case = dict[str, Any]
Expect = Callable[[Any, Any], None]
"""Takes what is computed here and what was recorded."""


def _tensors(case: Case, dtype: torch.dtype, *keys: str) -> list[Tensor]:
    return [torch.tensor(case[key], dtype=dtype) for key in keys]


def _expect_loss(
    case: Case, expect: Expect, values_ST: Tensor, mask_ST: Tensor, into: Tensor, gradient: str
) -> None:
    """The aggregated loss and its gradient at `into`."""
    loss = aggregate(values_ST, mask_ST, Aggregation(case["loss_agg"]))
    loss.backward()
    expect(loss, case["loss"])
    expect(into.grad, case[gradient])


def _sdar_gated_loss(case: Case, dtype: torch.dtype, expect: Expect) -> None:
    keys = ("student_log_probs", "teacher_log_probs", "response_mask")
    student, teacher, mask = _tensors(case, dtype, *keys)
    student.requires_grad_()
    gap = teacher_gap(student, teacher)
    weight = distillation_weight("gap", gap, beta=case["gate_beta"])
    values_ST, statistics = gated_distillation_loss(student, teacher, mask, weight)
    _expect_loss(case, expect, values_ST, mask, student, "grad_student_log_probs")
    of_step = gate_statistics(gap_gate(gap, beta=case["gate_beta"]), gap, mask)
    for name in ("gate_mean", "gate_active_ratio", "teacher_gap_mean"):
        expect(statistics[name], case[name])
        expect(of_step[name], case[name])


def _skill_sd(case: Case, dtype: torch.dtype, expect: Expect) -> None:
    keys = ("student_log_probs", "teacher_log_probs", "old_log_probs", "response_mask")
    student, teacher, old, mask = _tensors(case, dtype, *keys)
    values_ST, _ = skill_sd_loss(student.requires_grad_(), teacher, old, mask)
    _expect_loss(case, expect, values_ST, mask, student, "grad_student_log_probs")


def _rlsd(case: Case, dtype: torch.dtype, expect: Expect) -> None:
    keys = ("seq_advantages", "student_log_probs", "teacher_log_probs", "response_mask")
    tensors = _tensors(case, dtype, *keys)
    result = rlsd_token_advantages(*tensors, mix=case["mix"], clip=case["clip"])
    expect(result, case["token_advantages"])


def _grpo(case: Case, dtype: torch.dtype, expect: Expect) -> None:
    settings = ("statistics_over", "normalize_by_std", "epsilon")
    result = grpo_advantages(
        torch.tensor(case["step_return"], dtype=dtype),
        case["group"],
        case["episode"],
        **{name: case[name] for name in settings},
    )
    expect(result, case["advantages"])


def _gigpo(case: Case, dtype: torch.dtype, expect: Expect) -> None:
    keys = ("group", "episode", "anchor_observation")
    settings = ("mode", "step_advantage_weight", "epsilon")
    result = gigpo_advantages(
        *_tensors(case, dtype, "episode_return", "discounted_step_return"),
        *(case[key] for key in keys),
        **{name: case[name] for name in settings},
    )
    expect(result, case["advantages"])


def _policy(case: Case, dtype: torch.dtype, expect: Expect) -> None:
    keys = ("old_log_probs", "log_probs", "advantages", "response_mask")
    old, current, advantages, mask = _tensors(case, dtype, *keys)
    current.requires_grad_()
    settings = {name: case[name] for name in ("clip_low", "clip_high", "dual_clip")}
    values_ST, statistics = clipped_policy_loss(old, current, advantages, mask, **settings)
    _expect_loss(case, expect, values_ST, mask, current, "grad_log_probs")
    for name in ("clip_fraction", "approx_kl", "dual_clip_fraction"):
        expect(statistics[name], case[name])


def _kl(case: Case, dtype: torch.dtype, expect: Expect) -> None:
    current, reference = _tensors(case, dtype, "log_probs", "reference_log_probs")
    current.requires_grad_()
    kl_ST = reference_kl(current, reference, estimator=case["estimator"])
    loss = aggregate(kl_ST, torch.ones_like(kl_ST), Aggregation("token-mean"))
    loss.backward()
    expect(kl_ST, case["kl"])
    expect(loss, case["loss"])
    expect(current.grad, case["grad_log_probs"])


def _total(case: Case, dtype: torch.dtype, expect: Expect) -> None:
    keys = (
        "old_log_probs",
        "log_probs",
        "advantages",
        "response_mask",
        "teacher_log_probs",
        "reference_log_probs",
    )
    tensors = dict(zip(keys, _tensors(case, dtype, *keys), strict=True))
    tensors["log_probs"].requires_grad_()
    settings = LossSettings(
        clip_low=case["clip_low"],
        clip_high=case["clip_high"],
        dual_clip=case["dual_clip"],
        kl_coefficient=case["kl_coef"],
        kl_estimator=case["kl_estimator"],
        entropy_coefficient=0.0,
        distillation_coefficient=case["distill_coef"],
        beta=case["gate_beta"],
        gate="gap",
    )
    result = training_loss(
        get_method("sdar"), settings, MicroBatch(**tensors), Aggregation(case["loss_agg"])
    )
    result.loss.backward()
    expect(result.loss, case["loss"])
    expect(tensors["log_probs"].grad, case["grad_log_probs"])


_FORMULAS: dict[str, Callable[[Case, torch.dtype, Expect], None]] = {
    "sdar_gated_loss": _sdar_gated_loss,
    "skill_sd_loss": _skill_sd,
    "rlsd_token_advantages": _rlsd,
    "grpo_advantages": _grpo,
    "clipped_policy_loss": _policy,
    "reference_kl": _kl,
    "sdar_total_loss": _total,
    "gigpo_advantages": _gigpo,
}
FORMULAS = frozenset(_FORMULAS)


def largest_difference(formula: str, case: Case, dtype: torch.dtype) -> float:
    """The largest absolute difference between what is recorded of `case` and what `formula` gives
    when computed in `dtype`; infinite where shapes differ, a value is not a number, or a result is
    in another type."""
    differences = [0.0]

    def expect(actual: Any, recorded: Any) -> None:
        ours: Tensor = torch.as_tensor(actual, dtype=torch.float64).detach()
        theirs = torch.tensor(recorded, dtype=torch.float64)
        other_type = isinstance(actual, Tensor) and actual.dtype != dtype
        if other_type or ours.shape != theirs.shape:
            differences.append(float("inf"))
            return
        difference = (ours - theirs).abs().max() if ours.numel() else torch.zeros(())
        differences.append(float("inf") if difference.isnan() else float(difference))

    _FORMULAS[formula](case, dtype, expect)
    return max(differences)
