"""What a trainer passes in: the samples of a whole step, and the tokens of a micro-batch.

Legend: S samples, T tokens.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdar.algorithms.advantages import Keys
from sdar.errors import SdarError
from sdar.methods.declarations import Method


@dataclass(frozen=True)
class StepSamples:
    """All samples of a training step, one row per turn, in any order.

    `step_return` is the episode's return less the turn's penalty; `step_reward` what the turn
    itself earned (the return, on the last turn), less its penalty. Keys must tell episodes of
    different groups apart. `valid` [S]: non-zero where the turn's action could be parsed. Log-probs
    and entropy are [S, T] under the policy at the start of the step.
    """

    step_return: Tensor
    group: Keys
    episode: Keys
    turn: Keys
    response_mask: Tensor
    success: Tensor | None = None
    step_reward: Tensor | None = None
    anchor_observation: Keys | None = None
    valid: Tensor | None = None
    old_log_probs: Tensor | None = None
    old_entropy: Tensor | None = None
    teacher_log_probs: Tensor | None = None
    taught: Tensor | None = None
    """[S] booleans: the samples that the teacher scored; nothing is read of it at others. None: all
    of them, or there is no teacher."""


@dataclass(frozen=True)
class MicroBatch:
    """The tokens that a loss is made from, all [S, T], padded or packed; see the terms' functions.

    Gradients flow into `log_probs`, `entropy` and `teacher_divergence`.
    """

    log_probs: Tensor
    old_log_probs: Tensor
    advantages: Tensor
    response_mask: Tensor
    teacher_log_probs: Tensor | None = None
    reference_log_probs: Tensor | None = None
    entropy: Tensor | None = None
    teacher_divergence: Tensor | None = None
    """KL(student || teacher) over the vocabulary."""


def required(value: Any, name: str, method: Method) -> Any:
    """The value, or a `SdarError` that names what the method lacks."""
    if value is None:
        raise SdarError(f"method {method.name!r} needs {name} and got none: pass `{name}`")
    return value


def required_tensor(value: Tensor | Keys | None, name: str, method: Method) -> Tensor:
    """As `required`, as a tensor."""
    value = required(value, name, method)
    return value if isinstance(value, Tensor) else torch.as_tensor(value)
