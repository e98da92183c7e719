"""The numbers of every method: pure functions on tensors.

Imports torch alone. A method is a declaration in `sdar.methods`; a trainer calls
`step.step_advantages` and `step.step_context` on a whole training step, then `loss.training_loss`
on each micro-batch, and needs no branch on the method.
"""

from sdar.algorithms.advantages import (
    agent_opsd_advantages,
    discounted_step_returns,
    gigpo_advantages,
    grpo_advantages,
    rlsd_token_advantages,
)
from sdar.algorithms.aggregation import Aggregation, aggregate, global_denominator
from sdar.algorithms.context import GapQuantiles, StepContext
from sdar.algorithms.distillation import (
    distillation_weight,
    full_reverse_kl_loss,
    gated_distillation_loss,
    reverse_kl_loss,
    skill_sd_loss,
    vocabulary_reverse_kl,
)
from sdar.algorithms.gates import compute_gate, gate_by_position, gate_statistics, teacher_gap
from sdar.algorithms.inputs import MicroBatch, StepSamples
from sdar.algorithms.loss import LossSettings, TrainingLoss, training_loss
from sdar.algorithms.policy_loss import clipped_policy_loss, importance_weights, reference_kl
from sdar.algorithms.step import AdvantageSettings, step_advantages, step_context
from sdar.methods.declarations import METHODS, Method, get_method

__all__ = [
    "METHODS",
    "AdvantageSettings",
    "Aggregation",
    "GapQuantiles",
    "LossSettings",
    "Method",
    "MicroBatch",
    "StepContext",
    "StepSamples",
    "TrainingLoss",
    "agent_opsd_advantages",
    "aggregate",
    "clipped_policy_loss",
    "compute_gate",
    "discounted_step_returns",
    "distillation_weight",
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
