"""What a model that stays the trainer's is decoded with: matrices converted once, attention that
repeats no keys. Both are put into the model's own modules for a while.

Shape suffixes: B rows, G key-value heads, Q query heads of each, H head size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sdar.policy.paths import has_fp32_head
from sdar.policy.trunk import FAMILIES

PACKED = "sdar_packed"
"""Name of `packed_attention` among transformers' implementations of attention."""


class ComputingWeights:
    """The matrices of all linear layers in the type that autocast computes in, at fixed addresses.

    Autocast keeps what it converts for as long as it lasts, and frozen weights not at all; a CUDA
    graph needs addresses that stay. Without autocast there is nothing to convert; other families
    than those that are known may read the type of a weight, and keep their own. So does a head that
    computes in float32.
    """

    def __init__(self, model: Any) -> None:
        kind = model.device.type
        self.kind = kind
        self.dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        exact = model.lm_head if has_fp32_head(model) else None
        self._places = [
            (module, name, parameter)
            for module in model.modules()
            if self.dtype is not None
            and model.config.model_type in FAMILIES
            and isinstance(module, nn.Linear)
            and module is not exact
            for name, parameter in module.named_parameters(recurse=False)
            if parameter.dtype == torch.float32
        ]
        self._model = model
        self._addresses = self._addresses_now()
        self._copies = [
            nn.Parameter(parameter.detach().to(self.dtype), requires_grad=False)
            for _, _, parameter in self._places
        ]

    @torch.no_grad()
    def refresh(self) -> None:
        """Take the weights as they are now."""
        for (_, _, parameter), copy in zip(self._places, self._copies, strict=True):
            copy.copy_(parameter)

    def fits(self) -> bool:
        """Whether autocast is as it was, and all weights are where they were."""
        enabled = torch.is_autocast_enabled(self.kind)
        same = self.dtype == (torch.get_autocast_dtype(self.kind) if enabled else None)
        return same and self._addresses == self._addresses_now()

    def _addresses_now(self) -> list[int]:
        return [parameter.data_ptr() for parameter in self._model.parameters()]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """A block in which the model computes with the copies, and autocast keeps nothing."""
        for (module, name, _), copy in zip(self._places, self._copies, strict=True):
            module._parameters[name] = copy
        enabled = self.dtype is not None
        try:
            with torch.autocast(self.kind, self.dtype, enabled=enabled, cache_enabled=False):
                yield
        finally:
            for module, name, parameter in self._places:
                module._parameters[name] = parameter


@contextmanager
def packed(model: Any) -> Iterator[None]:
    """A block in which a decoded token's attention is `packed_attention`, if it was SDPA."""
    usual = model.config._attn_implementation
    if usual == "sdpa":
        model.config._attn_implementation = PACKED
    try:
        yield
    finally:
        model.config._attn_implementation = usual


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """SDPA in which the query heads of one key-value head are its queries: nothing is repeated.

    SDPA's own grouped attention with a mask has no kernel on CUDA but the one that repeats, and
    transformers repeats, too, in versions before it did as is done here. Of one query per row, with
    a mask that all heads share and nothing out of the ordinary; else transformers' own.
    """
    unusual = any(options.get(name) is not None for name in ("position_bias", "softcap", "s_aux"))
    shared = attention_mask is not None and attention_mask.shape[1] == 1
    if query.shape[2] != 1 or query.shape[1] == key.shape[1] or not shared or unusual:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
    packed_BGQH = query.reshape(query.shape[0], key.shape[1], -1, query.shape[3])
    mixed_BGQH = nn.functional.scaled_dot_product_attention(
        packed_BGQH, key, value, attn_mask=attention_mask, scale=scaling
    )
    return mixed_BGQH.reshape(query.shape[0], 1, -1, value.shape[3]), None


AttentionInterface.register(PACKED, packed_attention)
