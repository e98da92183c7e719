"""A policy's weights in full, whatever holds them: sharded over ranks, or with adapters beside."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from sdar.files.digest import parts_digest
from sdar.policy.lora import merged_weights


def whole(value: Tensor) -> Tensor:
    """A tensor in full, without gradient. All ranks that hold parts of it call together."""
    value = value.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value


@torch.no_grad()
def named_full_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Names and values of the model's state as Hugging Face has it: tied ones under each of their
    names, adapters merged into what they adapt.

    In the type the trainer keeps, on its device; a value may be the model's own memory. Where
    weights are sharded this is collective: all ranks take all items, in this order, and one
    weight at a time exists in full.
    """
    yield from merged_weights(model, whole)


def is_sharded(model: Any) -> bool:
    """Whether the ranks hold a part of the weights each."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def further_names(model: Any) -> set[str]:
    """The names of tied weights but the first of each."""
    first: dict[int, str] = {}
    every = model.named_parameters(remove_duplicate=False)
    return {name for name, value in every if first.setdefault(id(value), name) != name}


def policy_digest(model: Any) -> str:
    """SHA-256 over the names and values of the weights."""

    def parts() -> Iterator[bytes]:
        for name, value in model.state_dict().items():
            yield name.encode()
            flat = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
            yield flat.numpy().tobytes()

    return parts_digest(parts())[:16]
