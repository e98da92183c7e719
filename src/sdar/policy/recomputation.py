"""Activation checkpointing: layers compute their activations again in the backward pass.

Between forward and backward only each layer's input is kept, for about a third more work. The
option of transformers acts in training mode alone; the policy trains in evaluation mode (no
dropout).
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from sdar.policy.layers import decoder_layers
from sdar.policy.shared_attention import sharing, tree_in_use


def recompute_layers(model: Any) -> None:
    """Checkpoint every decoder layer of the model, wherever autograd is on. Raises `SdarError`
    where the family's layers are not known."""
    for layer in decoder_layers(model, "training.activation_checkpointing"):
        layer.forward = _Recomputed(layer)


class _Recomputed:
    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.forward = layer.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        tree = tree_in_use()
        # Nothing random happens in a layer, so there is no generator's state to keep.
        return checkpoint(
            self.forward,
            *args,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), sharing(self.layer, tree)),
            **kwargs,
        )
