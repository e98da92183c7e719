"""A policy's weights in full, also where they are sharded over ranks or have adapters."""

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

    In the trainer's type and on its device; a value may be the model's own memory. Of sharded
    weights all ranks take all items, in this order, and one at a time exists in full.
    """
    yield from merged_weights(model, whole)


def is_sharded(model: Any) -> bool:
    """Whether each rank holds a part of the weights."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def further_names(model: Any) -> set[str]:
    """All names of each tied weight but its first."""
    first: dict[int, str] = {}
    every = model.named_parameters(remove_duplicate=False)
    return {name for name, value in every if first.setdefault(id(value), name) != name}


def policy_digest(model: Any) -> str:
    """The first 16 digits of the SHA-256 of the weights' names and values."""

    def parts() -> Iterator[bytes]:
        for name, value in model.state_dict().items():
            yield name.encode()
            flat = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
            yield flat.numpy().tobytes()

    return parts_digest(parts())[:16]
