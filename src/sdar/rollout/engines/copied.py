"""Sampling from a copy of a policy whose weights are sharded over ranks.

Decoding needs all weights at every token; gathering them each time would cost more than decoding.
The copy has the type the policy computes in, and takes the trainer's weights once a step.
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from sdar.policy.paths import has_fp32_head, set_fp32_head
from sdar.rollout.engines.probe import find_sampling_path
from sdar.rollout.engines.transformers_continuous import ContinuousTransformersEngine


class CopiedEngine(ContinuousTransformersEngine):
    """A `TransformersEngine` with `RemoteWeights`, of a model as `like`. It has no weights before
    the first `take_weights`, lies on `device`, and asleep on the host. `static`: see
    `find_sampling_path`."""

    def __init__(
        self,
        like: Any,
        tokenizer: Any,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        longest: int | None = None,
        static: bool | None = None,
    ) -> None:
        model = copy_without_weights(like, dtype, device)
        self.device = device
        self._tried = False
        self._wanted = static
        model = model.eval().requires_grad_(False)
        # How it is to be decoded is tried with the first weights.
        super().__init__(model, tokenizer, longest=longest, path="fast")

    @torch.no_grad()
    def take_weights(self, named: Iterable[tuple[str, Tensor]], step: int) -> None:
        """See `RemoteWeights.take_weights`."""
        self.wake()
        own = self.model.state_dict()
        for name, value in named:
            own.pop(name).copy_(value)
        if own:
            raise ValueError(f"step {step}: no weights came for {', '.join(sorted(own)[:3])}")
        if not self._tried:
            engine = ContinuousTransformersEngine
            self.path, _ = find_sampling_path(engine, self.model, self.longest, self._wanted)
            self._tried = True

    def sleep(self) -> None:
        """See `RemoteWeights.sleep`."""
        super().sleep()
        self.model.to("cpu")

    def wake(self) -> None:
        """See `RemoteWeights.wake`."""
        self.model.to(self.device)


def copy_without_weights(like: Any, dtype: torch.dtype, device: torch.device | str) -> Any:
    """A model of the same class and attention on `device`, with room for weights of its own.

    Nothing is drawn and nothing lies on the host meanwhile. What is no weight (the frequencies of
    rotary embeddings) is as in `like`.
    """
    config = copy.deepcopy(like.config)
    config.dtype = dtype
    # FSDP puts a class of its own before the model's.
    kind: Any = next(base for base in type(like).__mro__ if not issubclass(base, FSDPModule))
    with torch.device("meta"):
        model = kind._from_config(
            config, attn_implementation=config._attn_implementation, dtype=dtype
        )
    model.to_empty(device=device)
    model.tie_weights()
    saved = model.state_dict().keys()
    for name, module in model.named_modules():
        for key, buffer in list(module.named_buffers(recurse=False)):
            if f"{name}.{key}".lstrip(".") not in saved:
                value = like.get_submodule(name).get_buffer(key).detach()
                module._buffers[key] = value.to(device, buffer.dtype, copy=True)
    model.generation_config = like.generation_config
    set_fp32_head(model, has_fp32_head(like))
    return model
