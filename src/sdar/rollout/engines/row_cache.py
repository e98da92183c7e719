"""The key-value cache of the engine's own: rows of their own lengths, in one buffer per layer.

Shape suffixes: B rows (responses), T capacity in tokens.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from sdar.policy.log_probs import computing_dtype


class RowCache(DynamicCache):
    """Keys and values in one buffer per layer, `[B, key-value heads, T, head size]`, in the type
    that attention computes in: under autocast, rotated keys come in another.

    A new token is written behind its row's last one. `fill` routes the next prefill block to its
    rows; `advance` starts a decode step.
    """

    def __init__(self, lengths_B: Tensor, capacity: int) -> None:
        super().__init__()
        self.lengths = lengths_B
        self.capacity = capacity
        self.buffers: list[tuple[Tensor, Tensor]] = []
        self._target: tuple[list[int], list[int]] | None = None

    def fill(self, rows: list[int], lines: list[int]) -> None:
        """The next forward is a prefill: its line `lines[i]` belongs to row `rows[i]`."""
        self._target = (rows, lines)

    def advance(self) -> tuple[Tensor, Tensor]:
        """The next forward appends a token per row; returns positions `[B]` and the mask."""
        self._target = None
        self._positions = self.lengths
        self.lengths = self.lengths + 1
        self._width = int(self.lengths.max())
        columns = torch.arange(self._width, device=self.lengths.device)
        return self._positions, (columns < self.lengths[:, None])[:, None, None]

    def keep(self, rows_B: Tensor) -> None:
        """Drop all other rows."""
        width = int(self.lengths.max())
        self.lengths = self.lengths[rows_B]
        for layer, (keys, values) in enumerate(self.buffers):
            room = keys.shape[2] - width
            # Only what is written so far is worth copying.
            self.buffers[layer] = tuple(  # type: ignore[assignment]
                torch.nn.functional.pad(buffer[rows_B, :, :width], (0, 0, 0, room))
                for buffer in (keys, values)
            )

    def extend(self, rows: int, tokens: int) -> None:
        """Room for more rows and more tokens of each; a layer's buffers exist twice meanwhile."""
        for layer, (keys, values) in enumerate(self.buffers):
            self.buffers[layer] = (_padded(keys, rows, tokens), _padded(values, rows, tokens))

    def update(
        self, key: Tensor, value: Tensor, layer: int, *rest: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        if layer == len(self.buffers):
            shape = (len(self.lengths), key.shape[1], self.capacity, key.shape[3])
            # Zeros: what is masked out must still be finite.
            dtype = computing_dtype(key)
            self.buffers.append(
                (key.new_zeros(shape, dtype=dtype), value.new_zeros(shape, dtype=dtype))
            )
        keys, values = self.buffers[layer]
        if self._target is not None:
            rows, lines = self._target
            keys[rows, :, : key.shape[2]] = key[lines].to(keys.dtype)
            values[rows, :, : value.shape[2]] = value[lines].to(values.dtype)
            return key, value
        every = torch.arange(len(self._positions), device=key.device)
        keys[every, :, self._positions] = key[:, :, 0].to(keys.dtype)
        values[every, :, self._positions] = value[:, :, 0].to(values.dtype)
        count = len(every)  # a buffer may have more rows
        return keys[:count, :, : self._width], values[:count, :, : self._width]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return query_length, 0


def _padded(buffer: Tensor, rows: int, tokens: int) -> Tensor:
    return torch.nn.functional.pad(buffer, (0, 0, 0, tokens, 0, 0, 0, rows))
