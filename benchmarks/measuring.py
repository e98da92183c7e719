"""Most bytes of tensors alive at once: what the estimate is held against, without a GPU."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
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
