"""Decoding in fixed shapes, without a word to the host at a token.

A token costs a GPU little and its launches much, the more so where the host waits for a value. Here
all that a step reads and writes lies in buffers that stay where they are: the same operations on
the same addresses, which CUDA launches as one graph. The host looks every `LOOK` tokens. Rows that
have ended go on, with nobody reading; attention sees the whole width of the cache through a mask.

Shape suffixes: B rows of a bucket, V vocabulary, T capacity of the cache, N joining rows, W tokens
of the longest response and one more, where rows that have ended write.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from sdar.rollout.engines.base import Generation
from sdar.rollout.engines.buckets import capacity_bucket, row_bucket
from sdar.rollout.engines.captured import CapturedSteps
from sdar.rollout.engines.row_cache import RowCache

LOOK = 8
"""Tokens after which the host looks which responses have ended."""


class StaticRows:
    """Responses that are being sampled: the first `count` rows of the buffers.

    `head` makes logits of hidden states, `draw` tokens and their log-probs of logits, draws and a
    temperature; `ends` are the tokens that end a response. `captured` runs the steps; None: as they
    are. Rows at one time share their temperature.
    """

    def __init__(
        self,
        model: Any,
        head: Callable[[Tensor], Tensor],
        draw: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]],
        ends: frozenset[int],
        captured: CapturedSteps | None,
    ) -> None:
        self.model, self.head, self.draw = model, head, draw
        self.of_ends = ends
        self.captured = captured
        self.count = 0
        self.temperature = 1.0
        self.cache = StaticCache(self._new(0), 0)
        self._ends = torch.tensor(sorted(ends), dtype=torch.long, device=model.device)
        self._needs: list[int] = []
        """Most tokens of prompt and response, by row."""
        self._tokens = self._new(0)
        self._places = self._new(0)
        self._limits = self._new(0)
        self._running = self._new(0, dtype=torch.bool)
        self._draws = self._new(0, 0, dtype=torch.float64)
        self._said = self._new(0, 0)
        self._log_probs = self._new(0, 0, dtype=torch.get_default_dtype())

    def _new(self, *shape: int, dtype: torch.dtype = torch.long) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.model.device)

    def join(self, lengths: Sequence[int], draws: Sequence[NDArray], temperature: float) -> int:
        """Responses to prompts of these lengths come behind the last row, each with a draw for
        every token that it may have. Returns the first of their rows. Next come their prompts, into
        `cache` from that row on, and `start`."""
        if self.count == 0:
            self.temperature = temperature
        assert temperature == self.temperature
        limits = [len(row) for row in draws]
        needs = [length + limit for length, limit in zip(lengths, limits, strict=True)]
        self._reserve(self.count + len(lengths), max(needs), max(limits))
        rows = slice(self.count, self.count + len(lengths))
        host_NW = torch.zeros(len(draws), self._draws.shape[1], dtype=torch.float64)
        for row, values in enumerate(draws):
            host_NW[row, : len(values)] = torch.from_numpy(values)
        device = self.model.device
        self._draws[rows].copy_(host_NW.to(device))
        self.cache.lengths[rows].copy_(torch.tensor(lengths, device=device))
        self._limits[rows].copy_(torch.tensor(limits, device=device))
        self._places[rows].zero_()
        self._running[rows].fill_(True)
        self._needs += needs
        self.count = rows.stop
        return rows.start

    def start(self, first: int, hidden_ND: Tensor) -> None:
        """The first tokens of the rows from `first` on, from their prompts' last hidden states."""
        self._take(slice(first, self.count), self.head(hidden_ND))

    def run(self, steps: int) -> None:
        """So many tokens for every row."""
        rows, capacity = row_bucket(self.count), capacity_bucket(max(self._needs))

        def step() -> None:
            self._step(rows, capacity)

        for _ in range(steps):
            if self.captured is None:
                step()
            else:
                self.captured.run((rows, capacity, self.temperature), step)

    def look(self) -> tuple[list[int], list[bool]]:
        """Tokens of each row, and whether it goes on. Waits for the device."""
        seen = torch.stack([self._places[: self.count], self._running[: self.count].long()])
        tokens, running = seen.tolist()
        return tokens, [bool(each) for each in running]

    def read(self, rows: Sequence[int], tokens: Sequence[int]) -> list[Generation]:
        """The responses of rows with so many tokens. Waits for the device."""
        chosen = torch.tensor(rows, device=self.model.device)
        said, log_probs = self._said[chosen].tolist(), self._log_probs[chosen].tolist()
        return [
            Generation(ids[:count], values[:count])
            for ids, values, count in zip(said, log_probs, tokens, strict=True)
        ]

    def leave(self, ended: set[int]) -> list[int]:
        """Close the gaps of rows that have ended with the last rows. Row `result[i]` is now i."""
        count = self.count - len(ended)
        last = iter(place for place in range(count, self.count) if place not in ended)
        order = [next(last) if place in ended else place for place in range(count)]
        moved = [(to, row) for to, row in enumerate(order) if to != row]
        if moved:
            targets, sources = torch.tensor(moved, device=self.model.device).T
            for state in self._states():
                state.index_copy_(0, targets, state[sources])
            self.cache.move(targets, sources, max(self._needs))
        # A step goes over the whole bucket.
        self._running[count:].fill_(False)
        self.cache.lengths[count:].zero_()
        self._needs = [self._needs[row] for row in order]
        self.count = count
        return order

    def clear(self) -> None:
        """Forget all rows; buffers and graphs stay."""
        self.leave(set(range(self.count)))

    def close(self) -> None:
        """End the graphs."""
        if self.captured is not None:
            self.captured.close()

    def _states(self) -> list[Tensor]:
        return [
            *(self.cache.lengths, self._tokens, self._places, self._limits, self._running),
            *(self._draws, self._said, self._log_probs),
        ]

    def _step(self, rows: int, capacity: int) -> None:
        """A token for each of the first `rows` rows. Nothing here may wait for the device, or
        depend on what is in the buffers."""
        positions_B = self.cache.lengths[:rows]
        mask_BT = self.cache.columns[:capacity] <= positions_B[:, None]
        self.cache.show(rows, capacity)
        hidden_B1D = self.model.model(
            input_ids=self._tokens[:rows, None],
            position_ids=positions_B[:, None],
            attention_mask=mask_BT[:, None, None],
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        positions_B += self._running[:rows]
        self._take(slice(0, rows), self.head(hidden_B1D[:, 0]))

    def _take(self, rows: slice, logits_BV: Tensor) -> None:
        """Draw a token for each row and write it down."""
        place_B, running_B = self._places[rows], self._running[rows]
        place_B1 = place_B[:, None]
        draws_B = self._draws[rows].gather(1, place_B1)[:, 0]
        chosen_B, log_probs_B = self.draw(logits_BV, draws_B, self.temperature)
        self._tokens[rows].copy_(chosen_B)
        self._said[rows].scatter_(1, place_B1, chosen_B[:, None])
        self._log_probs[rows].scatter_(1, place_B1, log_probs_B[:, None])
        place_B += running_B
        running_B &= (chosen_B[:, None] != self._ends).all(dim=1) & (place_B < self._limits[rows])

    def _reserve(self, rows: int, tokens: int, longest: int) -> None:
        """Room for so many rows, tokens of each, and tokens of a response. What grows moves, and
        graphs know places: they are made anew."""
        rows, tokens = row_bucket(rows), capacity_bucket(tokens)
        more_rows = max(0, rows - len(self._tokens))
        more_places = max(0, longest + 1 - self._draws.shape[1])
        if not (more_rows or more_places or tokens > self.cache.capacity):
            return
        self.cache.grow(more_rows, max(0, tokens - self.cache.capacity))
        self._tokens, self._places, self._limits, self._running = (
            torch.nn.functional.pad(state, (0, more_rows))
            for state in (self._tokens, self._places, self._limits, self._running)
        )
        self._draws, self._said, self._log_probs = (
            torch.nn.functional.pad(state, (0, more_places, 0, more_rows))
            for state in (self._draws, self._said, self._log_probs)
        )
        if self.captured is not None:
            self.captured.close()


class StaticCache(RowCache):
    """A `RowCache` of which a step always sees the same rows and columns; `lengths` are written in
    place, by the step itself."""

    def __init__(self, lengths_B: Tensor, capacity: int) -> None:
        super().__init__(lengths_B, capacity)
        self.columns = torch.arange(capacity, device=lengths_B.device)
        self._every = torch.arange(len(lengths_B), device=lengths_B.device)
        self._shown = (0, 0)

    def show(self, rows: int, capacity: int) -> None:
        """The next forward appends a token to each of the first rows, and sees so many columns."""
        self._target = None
        self._shown = (rows, capacity)

    def grow(self, rows: int, tokens: int) -> None:
        """More of both."""
        self.lengths = torch.nn.functional.pad(self.lengths, (0, rows))
        self.capacity += tokens
        self.extend(rows, tokens)
        self.columns = torch.arange(self.capacity, device=self.lengths.device)
        self._every = torch.arange(len(self.lengths), device=self.lengths.device)

    def move(self, targets: Tensor, sources: Tensor, width: int) -> None:
        """Rows `sources` become rows `targets`, up to `width` tokens."""
        for buffers in self.buffers:
            for buffer in buffers:
                shown = buffer[:, :, :width]
                shown.index_copy_(0, targets, shown[sources])

    def update(
        self, key: Tensor, value: Tensor, layer: int, *rest: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        if self._target is not None:
            return super().update(key, value, layer, *rest, **options)
        rows, capacity = self._shown
        keys, values = self.buffers[layer]
        place = (self._every[:rows], self.lengths[:rows])
        for buffer, new in ((keys, key), (values, value)):
            buffer.transpose(1, 2).index_put_(place, new[:, :, 0].to(buffer.dtype))
        return keys[:rows, :, :capacity], values[:rows, :, :capacity]
