"""The decoder layers of a model, whatever its family calls them."""

from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from sdar.errors import SdarError


def decoder_layers(model: Any, key: str) -> list[nn.Module]:
    """The layers, first to last. Raises `SdarError` that names `key`, for which they are needed,
    where transformers does not mark them."""
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise SdarError(
            f"{key}: the layers of a {model.config.model_type} model are not known, so it cannot "
            "be done for this family: turn it off, or take a model of another family"
        )
    return layers
