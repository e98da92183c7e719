"""Sampling from a copy of a policy whose weights are sharded over ranks.

Decoding needs all weights at every token; gathering them each time would cost more than decoding.
The copy has the type the policy computes in, and takes the trainer's weights once a step.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from sdar.rollout.engines.transformers_continuous import ContinuousTransformersEngine


class CopiedEngine(ContinuousTransformersEngine):
    """A `TransformersEngine` with `RemoteWeights`, of a model as `like`. It has no weights before
    the first `take_weights`, lies on `device`, and asleep on the host."""

    def __init__(
        self, like: Any, tokenizer: Any, *, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        model = AutoModelForCausalLM.from_config(
            like.config, dtype=dtype, attn_implementation="sdpa"
        )
        model.generation_config = like.generation_config
        self.device = device
        super().__init__(model.to(device).eval().requires_grad_(False), tokenizer)

    @torch.no_grad()
    def take_weights(self, named: Iterable[tuple[str, Tensor]], step: int) -> None:
        """See `RemoteWeights.take_weights`."""
        self.wake()
        own = self.model.state_dict()
        for name, value in named:
            own.pop(name).copy_(value)
        if own:
            raise ValueError(f"step {step}: no weights came for {', '.join(sorted(own)[:3])}")

    def sleep(self) -> None:
        """See `RemoteWeights.sleep`."""
        self.model.to("cpu")

    def wake(self) -> None:
        """See `RemoteWeights.wake`."""
        self.model.to(self.device)
