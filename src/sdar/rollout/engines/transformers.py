"""Sampling with a Hugging Face model: a decode loop on a key-value cache of its own.

Faster than `generate` for many short responses: identical prompts are prefilled once; prompts are
prefilled in order of length in blocks that suit the device, padded on the right and so
without a mask; the last layer computes one position per prompt; rows of the cache have their own
lengths, so that nothing is padded on the left; rows leave when finished; sampling is one cumulative
sum and one binary search.

That holds where a layer keeps keys and values of every token and logits are `lm_head(hidden)`.
Other models decode with their own forward and cache (`own_cache`); which it is, is tried (`probe`).

Shape suffixes: B rows (responses), V vocabulary, T capacity of the cache in tokens.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from sdar.policy.chat import end_token_ids
from sdar.policy.log_probs import computing_dtype
from sdar.policy.micro_batches import prefill_tokens
from sdar.policy.paths import takes
from sdar.policy.trunk import hidden_states_at
from sdar.rollout.engines.base import Generation, Key, uniforms
from sdar.rollout.engines.own_cache import OwnCaches
from sdar.rollout.engines.probe import SamplingPath, sampling_path


class TransformersEngine:
    """Implements `RolloutEngine` on the trainer's own model: new weights need no transfer.

    `prefill_tokens` bounds one prefill block; None: what suits the device. A token of `ends` ends a
    response; None: the model's own end-of-response tokens. `longest` is the most tokens of a prompt
    with its response, where it is known; `path` how the model is decoded; None: what is tried first
    finds out.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        prefill_tokens: int | None = None,
        ends: frozenset[int] | None = None,
        longest: int | None = None,
        path: SamplingPath | None = None,
    ) -> None:
        self.model = model
        self.longest = longest
        self.path: SamplingPath = path or sampling_path(type(self), model, longest)
        self.prefill_tokens = prefill_tokens or self._suitable_block()
        self.ends = end_token_ids(model, tokenizer) if ends is None else ends

    @torch.no_grad()  # not inference mode: there autocast converts every weight at every token
    def generate(
        self,
        prompt_ids: list[list[int]],
        keys: Sequence[Key],
        *,
        max_new_tokens: int,
        temperature: float,
    ) -> list[Generation]:
        """See `RolloutEngine.generate`."""
        if not prompt_ids:
            return []
        device = self.model.device
        draws = torch.from_numpy(uniforms(keys, max_new_tokens)).to(device)
        ends = torch.tensor(sorted(self.ends), device=device)
        lengths = torch.tensor([len(ids) for ids in prompt_ids], device=device)
        cache: Any = self._own_caches()
        if cache is None:
            cache = RowCache(lengths, int(lengths.max()) + max_new_tokens)
        hidden = self._prefill(prompt_ids, cache)
        rows = torch.arange(len(prompt_ids), device=device)
        running = torch.ones(len(prompt_ids), dtype=torch.bool, device=device)
        tokens: list[list[int]] = [[] for _ in prompt_ids]
        log_probs: list[list[float]] = [[] for _ in prompt_ids]

        for place in range(max_new_tokens):
            logits_BV = self._logits(hidden)
            chosen, chosen_log_probs = sample(logits_BV, draws[rows, place], temperature)
            picked = zip(
                rows.tolist(), running.tolist(), chosen.tolist(), chosen_log_probs.tolist(),
                strict=True,
            )  # fmt: skip
            for row, alive, token, log_prob in picked:
                if alive:
                    tokens[row].append(token)
                    log_probs[row].append(log_prob)
            running &= ~torch.isin(chosen, ends)
            live = int(running.sum())
            if live == 0 or place == max_new_tokens - 1:
                break
            # Finished rows cost a little until they leave; leaving costs a copy of the cache.
            if live <= 0.75 * len(running):
                kept = running.nonzero()[:, 0]
                cache.keep(kept)
                rows, running, chosen = rows[kept], running[kept], chosen[kept]
            hidden = self._decode(chosen, cache)
        return [Generation(t, p) for t, p in zip(tokens, log_probs, strict=True)]

    def _suitable_block(self) -> int:
        """Padded tokens of a prefill block."""
        last_logits_only = self.path == "fast" or takes(self.model, "logits_to_keep")
        # Where a forward gives the logits of all tokens, a larger block has no room.
        return prefill_tokens(self.model.device.type if last_logits_only else "cpu")

    def _own_caches(self) -> OwnCaches | None:
        if self.path == "fast":
            return None
        return OwnCaches(
            self.model, together=self.path == "general", caching=self.path != "uncached"
        )

    def _logits(self, hidden: Tensor) -> Tensor:
        """Of hidden states `[B, D]`, or of what the model's own forward gave, which has them."""
        return (self.model.lm_head(hidden) if self.path == "fast" else hidden).float()

    def _prefill(self, prompt_ids: list[list[int]], cache: Any, first: int = 0) -> Tensor:
        """Hidden state `[B, D]` of each prompt's last token (or the logits, see `_logits`). Fills
        cache rows from `first` on."""
        if isinstance(cache, OwnCaches):
            order = sorted(range(len(prompt_ids)), key=lambda row: len(prompt_ids[row]))
            ordered_prompts = [prompt_ids[row] for row in order]
            blocks = _blocks([len(ids) for ids in ordered_prompts], self.prefill_tokens)
            logits = cache.prefill([ordered_prompts[block] for block in blocks])
            back = sorted(range(len(order)), key=lambda place: order[place])
            cache.keep([*range(first), *(first + place for place in back)])
            return logits[back]
        owners: dict[tuple[int, ...], list[int]] = {}
        for row, ids in enumerate(prompt_ids):
            owners.setdefault(tuple(ids), []).append(row)
        ordered = sorted(owners, key=len)
        device = self.model.device
        hidden = [torch.empty(0)] * len(prompt_ids)
        for block in _blocks([len(ids) for ids in ordered], self.prefill_tokens):
            prompts = ordered[block]
            width = len(prompts[-1])
            padded = np.zeros((len(prompts), width), dtype=np.int64)
            for line, prompt in enumerate(prompts):
                padded[line, : len(prompt)] = prompt
            last = torch.tensor([[len(ids) - 1] for ids in prompts], device=device)
            rows = [row for ids in prompts for row in owners[ids]]
            lines = [line for line, ids in enumerate(prompts) for _ in owners[ids]]
            cache.fill([first + row for row in rows], lines)
            block_hidden = hidden_states_at(
                self.model, torch.from_numpy(padded).to(device), last, cache
            )
            for row, line in zip(rows, lines, strict=True):
                hidden[row] = block_hidden[line, 0]
        return torch.stack(hidden)

    def _decode(self, chosen: Tensor, cache: Any) -> Tensor:
        """Append the chosen tokens; hidden states `[B, D]` (or logits) that predict the next."""
        if isinstance(cache, OwnCaches):
            return cache.decode(chosen)
        positions, mask = cache.advance()
        return self.model.model(
            input_ids=chosen[:, None],
            position_ids=positions[:, None],
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, 0]


def sample(logits_BV: Tensor, draws_B: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Tokens by inverse transform of the uniform draws, and their log-probabilities at
    temperature 1, both `[B]`. Temperature 0 takes the most likely token."""
    if temperature == 0.0:
        chosen_B = logits_BV.argmax(dim=-1)
    else:
        cumulative_BV = (
            (logits_BV / temperature).softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
        )
        # Scaling by the total keeps rounding from ever pointing past the last token.
        targets_B1 = (draws_B * cumulative_BV[:, -1])[:, None]
        chosen_B = torch.searchsorted(cumulative_BV, targets_B1, right=True)[:, 0]
        chosen_B = chosen_B.clamp_(max=logits_BV.shape[1] - 1)
    log_probs_B = logits_BV.gather(1, chosen_B[:, None])[:, 0] - logits_BV.logsumexp(dim=-1)
    return chosen_B, log_probs_B


def _blocks(sorted_lengths: list[int], token_limit: int) -> list[slice]:
    """Cut a sorted list into runs of at most `token_limit` padded tokens (or one prompt)."""
    blocks, start = [], 0
    for stop in range(1, len(sorted_lengths) + 1):
        if stop - start > 1 and sorted_lengths[stop - 1] * (stop - start) > token_limit:
            blocks.append(slice(start, stop - 1))
            start = stop - 1
    return [*blocks, slice(start, len(sorted_lengths))]


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
