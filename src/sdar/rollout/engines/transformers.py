"""Sampling with a Hugging Face model: a decode loop on a key-value cache of its own.

Faster than `generate` for many short responses: identical prompts are prefilled once; prompts are
prefilled in order of length in blocks that suit the device, padded on the right and so
without a mask; the last layer computes one position per prompt; rows of the cache have their own
lengths, so that nothing is padded on the left; rows leave when finished; sampling is one cumulative
sum and one binary search.

That holds where a layer keeps keys and values of every token and logits are `lm_head(hidden)`. On a
GPU such a model is decoded in fixed shapes (`static`). Other models decode with their own forward
and cache (`own_cache`); which it is, is tried (`probe`).

Shape suffixes: B rows (responses), V vocabulary, T capacity of the cache in tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdar.policy.chat import end_token_ids
from sdar.policy.micro_batches import plan_passes, prefill_tokens
from sdar.policy.paths import apply_head, shares_prefixes, takes
from sdar.policy.prefix_tree import worthwhile_tree
from sdar.policy.trunk import hidden_states_at, hidden_states_of_tree
from sdar.rollout.engines.base import Generation, Key, uniforms
from sdar.rollout.engines.buckets import row_bucket
from sdar.rollout.engines.captured import CapturedSteps
from sdar.rollout.engines.computing import ComputingWeights, packed
from sdar.rollout.engines.own_cache import OwnCaches
from sdar.rollout.engines.probe import FAST_PATHS, SamplingPath, sampling_path
from sdar.rollout.engines.row_cache import RowCache
from sdar.rollout.engines.static import LOOK, StaticRows


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
        self._weights: ComputingWeights | None = None
        self._static: StaticRows | None = None

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
        draws = uniforms(keys, max_new_tokens)
        with self._computing():
            if self.path == "static":
                return self._generate_static(prompt_ids, draws, temperature)
            return self._generate(prompt_ids, draws, temperature)

    def sleep(self) -> None:
        """Give back what is held beside the model: caches, graphs, converted weights."""
        if self._static is not None:
            self._static.close()
        self._static = self._weights = None

    def close(self) -> None:
        """End what `generate` has begun."""
        self.sleep()

    def _generate(
        self, prompt_ids: list[list[int]], uniform: NDArray, temperature: float
    ) -> list[Generation]:
        """`generate` on any path but `static`, with draws `[B, tokens]`."""
        device, max_new_tokens = self.model.device, uniform.shape[1]
        draws = torch.from_numpy(uniform).to(device)
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

    def _generate_static(
        self, prompt_ids: list[list[int]], uniform: NDArray, temperature: float
    ) -> list[Generation]:
        """As `_generate`, in fixed shapes; the host looks every `LOOK` tokens."""
        rows = self._static_rows()
        rows.clear()
        rows.join([len(ids) for ids in prompt_ids], list(uniform), temperature)
        rows.start(0, self._prefill(prompt_ids, rows.cache))
        made: dict[int, Generation] = {}
        names, left = list(range(len(prompt_ids))), uniform.shape[1] - 1
        while names:
            rows.run(min(LOOK, left))
            left -= min(LOOK, left)
            tokens, running = rows.look()
            ended = [place for place, going in enumerate(running) if not going]
            live = len(names) - len(ended)
            # Fewer sizes, fewer graphs: rows leave when half of the bucket has ended.
            if live and 2 * row_bucket(live) > row_bucket(len(names)):
                continue
            found = rows.read(ended, [tokens[place] for place in ended])
            made |= zip([names[place] for place in ended], found, strict=True)
            names = [names[place] for place in rows.leave(set(ended))]
        return [made[row] for row in range(len(prompt_ids))]

    def _static_rows(self) -> StaticRows:
        if self._static is None or self._static.of_ends != self.ends:
            device = self.model.device
            captured = CapturedSteps(device) if device.type == "cuda" else None
            self._static = StaticRows(self.model, self._logits, sample, self.ends, captured)
        return self._static

    @contextmanager
    def _computing(self, *, new_weights: bool = True) -> Iterator[None]:
        """A block in which the model is decoded: no weight is converted at a token. Its weights may
        be new since the last one."""
        if self.path not in FAST_PATHS:
            yield
            return
        if self._weights is None or (new_weights and not self._weights.fits()):
            self.sleep()  # graphs know the places of weights
            self._weights = ComputingWeights(self.model)
        elif new_weights:
            self._weights.refresh()
        with self._weights.in_use(), packed(self.model) if self.path == "static" else nullcontext():
            yield
        if self.path != "static" and not self._sampling():
            self._weights = None

    def _sampling(self) -> bool:
        """Whether responses have been begun that go on in a later call."""
        return False

    def _suitable_block(self) -> int:
        """Padded tokens of a prefill block."""
        last_logits_only = self.path in FAST_PATHS or takes(self.model, "logits_to_keep")
        # Where a forward gives the logits of all tokens, a larger block has no room.
        return prefill_tokens(self.model.device.type if last_logits_only else "cpu")

    def _own_caches(self) -> OwnCaches | None:
        if self.path in FAST_PATHS:
            return None
        return OwnCaches(
            self.model, together=self.path == "general", caching=self.path != "uncached"
        )

    def _logits(self, hidden: Tensor) -> Tensor:
        """Of hidden states `[B, D]`, or of what the model's own forward gave, which has them."""
        if self.path not in FAST_PATHS:
            return hidden.float()
        return apply_head(self.model, self.model.lm_head, hidden).float()

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
        ordered, share = sorted(owners, key=len), shares_prefixes(self.model)
        hidden = [torch.empty(0)] * len(prompt_ids)
        for block in plan_passes(ordered, len(ordered), self.prefill_tokens, share=share):
            prompts = [ordered[i] for i in block]
            rows = [row for ids in prompts for row in owners[ids]]
            lines = [line for line, ids in enumerate(prompts) for _ in owners[ids]]
            cache.fill([first + row for row in rows], lines)
            last_hidden = self._read(prompts, cache, share)
            for row, line in zip(rows, lines, strict=True):
                hidden[row] = last_hidden[line]
        return torch.stack(hidden)

    def _read(self, prompts: Sequence[Sequence[int]], cache: Any, share: bool) -> Tensor:
        """Hidden state `[B, D]` of the last token of prompts that are read together."""
        device, last = self.model.device, np.array([[len(ids) - 1] for ids in prompts])
        tree = worthwhile_tree(prompts, last, device) if share else None
        if tree is not None:
            return hidden_states_of_tree(self.model, tree, cache)[tree.reads_SR[:, 0]]
        padded = np.zeros((len(prompts), int(last.max()) + 1), dtype=np.int64)
        for line, prompt in enumerate(prompts):
            padded[line, : len(prompt)] = prompt
        ids_BT, last_B1 = (torch.from_numpy(array).to(device) for array in (padded, last))
        return hidden_states_at(self.model, ids_BT, last_B1, cache)[:, 0]

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
