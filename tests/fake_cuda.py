"""Tensors on a GPU that is not there: shapes, types and devices are right, values there are none.

A read of a value raises, and so does an operation on tensors of two devices.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode


class WithoutDriver(TorchFunctionMode):
    """Indexing and copies by other operations: in a build for CPUs, theirs ask for the driver."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if name == "__getitem__":
            return _taken(*args)
        if name == "copy_":
            assert args[0].device == args[1].device
            args[1].expand(args[0].shape)
            return args[0]
        return function(*args, **(kwargs or {}))


def _taken(tensor: Tensor, index: Any) -> Tensor:
    parts = list(index) if type(index) is tuple else [index]
    if Ellipsis in [part for part in parts if not isinstance(part, Tensor)]:
        place = next(place for place, part in enumerate(parts) if part is Ellipsis)
        named = sum(part is not None and part is not Ellipsis for part in parts)
        parts[place : place + 1] = [slice(None)] * (tensor.dim() - named)
    dimension, tensors = 0, [None] * tensor.dim()
    for part in parts:
        if part is None:
            tensor = tensor.unsqueeze(dimension)
            tensors.insert(dimension, None)
        elif isinstance(part, int):
            tensor = tensor.select(dimension, part)
            tensors.pop(dimension)
            continue
        elif isinstance(part, slice):
            start, stop, step = part.indices(tensor.shape[dimension])
            if (start, stop, step) != (0, tensor.shape[dimension], 1):
                tensor = torch.ops.aten.slice.Tensor(tensor, dimension, start, stop, step)
        else:
            tensors[dimension] = part
        dimension += 1
    if any(part is not None for part in tensors):
        tensor = torch.ops.aten.index.Tensor(tensor, tensors)
    return tensor


@contextmanager
def fake_cuda(half: bool = False) -> Iterator[None]:
    """A block in which "cuda" is a device; `half`: with bfloat16's autocast, without gradient."""
    torch.set_autocast_enabled("cuda", half)  # `torch.autocast` asks for a GPU
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), WithoutDriver(), torch.no_grad():
            yield
    finally:
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


def on_cuda(model: Any) -> Any:
    """A model of meta tensors, there."""
    for module in model.modules():
        for values in (module._parameters, module._buffers):
            for name, value in values.items():
                if value is not None:
                    empty = torch.empty(value.shape, dtype=value.dtype, device="cuda")
                    is_weight = values is module._parameters
                    values[name] = torch.nn.Parameter(empty, False) if is_weight else empty
    return model
