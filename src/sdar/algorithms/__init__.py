"""The numbers of every method: pure functions on tensors, and one declaration a method.

Imports torch alone. Start at `methods` (what a method is) and `execution` (how it is carried out).
"""

from sdar.algorithms.advantages import (
    agent_opsd_advantages,
    discounted_step_returns,
    gigpo_advantages,
    grpo_advantages,
    rlsd_token_advantages,
)
from sdar.algorithms.aggregation import aggregate, global_denominator
from sdar.algorithms.context import GapQuantiles, StepContext
from sdar.algorithms.distillation import (
    full_reverse_kl_loss,
    gated_distillation_loss,
    reverse_kl_loss,
    skill_sd_loss,
    vocabulary_reverse_kl,
)
from sdar.algorithms.execution import (
    AdvantageSettings,
    LossSettings,
    StepSamples,
    TrainingLoss,
    step_advantages,
    step_context,
    training_loss,
)
from sdar.algorithms.gates import compute_gate, gate_by_position, gate_statistics, teacher_gap
from sdar.algorithms.policy_loss import clipped_policy_loss, importance_weights, reference_kl
from sdar.methods.declarations import METHODS, Method, get_method

__all__ = [
    "METHODS",
    "AdvantageSettings",
    "GapQuantiles",
    "LossSettings",
    "Method",
    "StepContext",
    "StepSamples",
    "TrainingLoss",
    "agent_opsd_advantages",
    "aggregate",
    "clipped_policy_loss",
    "compute_gate",
    "discounted_step_returns",
    "full_reverse_kl_loss",
    "gate_by_position",
    "gate_statistics",
    "gated_distillation_loss",
    "get_method",
    "gigpo_advantages",
    "global_denominator",
    "grpo_advantages",
    "importance_weights",
    "reference_kl",
    "reverse_kl_loss",
    "rlsd_token_advantages",
    "skill_sd_loss",
    "step_advantages",
    "step_context",
    "teacher_gap",
    "training_loss",
    "vocabulary_reverse_kl",
]
