"""What can be known of a GPU's work without one: most bytes of tensors alive at once, which the
estimate is held against; operations, casts and reads by the host."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.weak import WeakIdKeyDictionary


class LiveTensors(TorchDispatchMode):
    """While it is entered, counts storages as operations make, resize and drop them.

    `held` (modules, optimizers, tensors) is there before; of sharded ones, this rank's part. Exact,
    and the same on every machine; what an operation allocates and frees within itself is not seen.
    Slow: for small shapes.
    """

    def __init__(self, *held: Any) -> None:
        super().__init__()
        self.peak = 0
        self._known: Any = WeakIdKeyDictionary()
        for tensor in _tensors(held):
            self._see(tensor)

    @property
    def bytes(self) -> int:
        """Alive now. FSDP2 empties a gathered storage and keeps it: so sizes are asked for."""
        return sum(storage.nbytes() for storage in self._known)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._see(value)
        self.peak = max(self.peak, self.bytes)
        return result

    def _see(self, tensor: Tensor) -> None:
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        self._known[local.untyped_storage()] = True


class OperationCounts(TorchDispatchMode):
    """While it is entered, counts operations without views: on a GPU, about a launch each.

    `casts`: conversions from one floating-point type to another; `weight_casts`: those of
    parameters of `model`, in whatever layout. `host_reads`: what would make the host wait for the
    device: values, shapes that depend on values, copies to the host.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.operations = self.casts = self.weight_casts = self.host_reads = 0
        self._weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
        self._asked = _AskedByHost(self)

    def __enter__(self) -> "OperationCounts":
        super().__enter__()
        self._asked.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._asked.__exit__(*error)
        super().__exit__(*error)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        self.operations += not function.is_view
        if function.overloadpacket in _CONVERT and _is_cast(args[0], result):
            self.casts += 1
            self.weight_casts += args[0].untyped_storage().data_ptr() in self._weights
        masks = function is torch.ops.aten.index.Tensor and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        self.host_reads += masks or function.overloadpacket in _VALUES_DECIDE
        return result


def _is_cast(one: Tensor, other: Tensor) -> bool:
    floats = one.is_floating_point() and other.is_floating_point()
    return floats and one.dtype != other.dtype


_CONVERT = {torch.ops.aten._to_copy, torch.ops.aten.to}  # the latter in inference mode
_VALUES_DECIDE = {
    torch.ops.aten._local_scalar_dense,
    torch.ops.aten.nonzero,
    torch.ops.aten.masked_select,
    torch.ops.aten._unique2,
    torch.ops.aten.equal,
}


class _AskedByHost(TorchFunctionMode):
    """Reads that dispatch nothing where the host is the device."""

    READS = (Tensor.tolist, Tensor.numpy, Tensor.cpu)

    def __init__(self, counts: OperationCounts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.counts.host_reads += function in self.READS
        return function(*args, **(kwargs or {}))


def _tensors(held: Iterable[Any]) -> Iterator[Tensor]:
    for value in held:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, torch.nn.Module):
            for parameter in value.parameters():
                yield parameter
                if parameter.grad is not None:
                    yield parameter.grad
            yield from value.buffers()
        else:  # an optimizer
            for state in value.state.values():
                yield from (kept for kept in state.values() if isinstance(kept, Tensor))
