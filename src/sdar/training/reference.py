"""The reference: the policy that training began with, towards which the KL term pulls."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sdar.policy.lora import without_adapters
from sdar.policy.paths import has_fp32_head
from sdar.policy.trunk import FAMILIES


@dataclass(frozen=True)
class Reference:
    """A scorer, and what must be in place while it scores."""

    scorer: Any
    adapted: Any = None
    """The student's model, where the reference is that without its adapters; None: a copy."""
    away: bool = False
    """Whether the copy lies in the host's memory between passes."""
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        self._put_away()

    @contextmanager
    def at_hand(self) -> Iterator[None]:
        """A block in which `scorer` is the reference, on its device."""
        if self.adapted is not None:
            with without_adapters(self.adapted):
                yield
            return
        if self.away:
            self.scorer.to(self.device)
        yield
        self._put_away()

    def _put_away(self) -> None:
        if self.away and self.adapted is None:
            self.scorer.to("cpu")


def frozen_copy(model: Any, computing: torch.dtype | None = None) -> Any:
    """The policy as it is now, never to be trained.

    `computing` is the type of autocast, where that is on: it would convert a frozen matrix at every
    use, so linear layers are converted here, once, to the same results. In families whose layers
    may read a weight's type nothing is, and a head that computes in float32 stays what it is.
    """
    frozen = copy.deepcopy(model).requires_grad_(False).eval()
    if computing is not None and model.config.model_type in FAMILIES:
        exact = frozen.lm_head if has_fp32_head(frozen) else None
        for module in frozen.modules():
            if isinstance(module, nn.Linear) and module is not exact:
                # New parameters: an embedding that is tied to the head stays as it is.
                for name, parameter in module.named_parameters(recurse=False):
                    setattr(module, name, nn.Parameter(parameter.to(computing), False))
    return frozen
