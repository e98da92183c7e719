"""Activation checkpointing: layers compute their activations again in the backward pass.

Between forward and backward only each layer's input is kept, for about a third more work. The
option of transformers acts in training mode alone; the policy trains in evaluation mode (no
dropout).
"""

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from sdar.policy.layers import decoder_layers


def recompute_layers(model: Any) -> None:
    """Checkpoint every decoder layer of the model, wherever autograd is on. Raises `SdarError`
    where the family's layers are not known."""
    for layer in decoder_layers(model, "training.activation_checkpointing"):
        layer.forward = _Recomputed(layer.forward)


class _Recomputed:
    def __init__(self, forward: Any) -> None:
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        # Nothing random happens in a layer, so there is no generator's state to keep.
        return checkpoint(
            self.forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
        )
