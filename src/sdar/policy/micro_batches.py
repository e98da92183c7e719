"""From lists of token ids to tensors: padding on the right, micro-batches of similar length.

Shape suffixes: S samples, T tokens of the longest sequence, R of the longest response.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from sdar.policy.prefix_tree import PrefixTree, shared_beginnings, worthwhile_tree

CPU_TOKENS = 4096
"""Padded tokens of a pass on a CPU: what stays in its caches."""
GPU_PREFILL_TOKENS = 32_768
"""Padded tokens of prompts that an engine reads at once on a GPU: enough to fill it."""

KEYS_SHARE = 1 / 8
"""What a token of a tree's padded rows takes, in keys and values, of what a computed one takes: at
most that in the usual shapes, so that a tree takes no more memory than as many padded tokens."""


def prefill_tokens(device: str) -> int:
    """Padded tokens of prompts that an engine reads at once on this type of device."""
    return CPU_TOKENS if device == "cpu" else GPU_PREFILL_TOKENS


@dataclass(frozen=True)
class TokenBatch:
    """Prompts with their responses, ready to be scored.

    `input_ids_ST` holds prompt and response without the response's last token, which predicts
    nothing. `positions_SR` is the place of the token that predicts each response token,
    `targets_SR` the response token itself, `mask_SR` which entries are real.
    """

    input_ids_ST: Tensor
    positions_SR: Tensor
    targets_SR: Tensor
    mask_SR: Tensor
    tree: PrefixTree | None = None
    """The same sequences, with equal beginnings once; None: few are, or no tree was asked for."""


def pad_batch(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    device: torch.device | str = "cpu",
    *,
    share: bool = False,
) -> TokenBatch:
    """Pad on the right. Prompts and responses must not be empty. With `share` equal beginnings are
    found, too."""
    lengths = [len(p) + len(r) - 1 for p, r in zip(prompts, responses, strict=True)]
    width = max(map(len, responses))
    input_ids = np.zeros((len(prompts), max(lengths)), dtype=np.int64)
    targets = np.zeros((len(prompts), width), dtype=np.int64)
    mask = np.zeros((len(prompts), width), dtype=bool)
    positions = np.zeros((len(prompts), width), dtype=np.int64)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        input_ids[row, : len(prompt)] = prompt
        input_ids[row, len(prompt) : lengths[row]] = response[:-1]
        targets[row, : len(response)] = response
        mask[row, : len(response)] = True
        positions[row] = np.minimum(np.arange(width) + len(prompt) - 1, lengths[row] - 1)
    tree = None
    if share:
        sequences = [row[:length] for row, length in zip(input_ids.tolist(), lengths, strict=True)]
        tree = worthwhile_tree(sequences, positions, device)
    arrays = (input_ids, positions, targets, mask)
    ids_ST, positions_SR, targets_SR, mask_SR = (torch.from_numpy(a).to(device) for a in arrays)
    return TokenBatch(ids_ST, positions_SR, targets_SR, mask_SR, tree)


def one_token(device: torch.device | str = "cpu") -> TokenBatch:
    """The smallest batch: for a pass that is only made because other ranks make one."""
    return pad_batch([[0]], [[0]], device)


def plan_micro_batches(
    lengths: Sequence[int], samples: int, tokens: int | None = None
) -> list[list[int]]:
    """Indices of each micro-batch: sorted by length, at most `samples` long and `tokens` wide
    (padded; a sample longer than that goes alone). Shortest first; ties keep their order."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    plan: list[list[int]] = []
    current: list[int] = []
    for index in order:
        full = len(current) == samples
        if current and (full or (tokens and lengths[index] * (len(current) + 1) > tokens)):
            plan.append(current)
            current = []
        current.append(index)
    return [*plan, current] if current else plan


def plan_passes(
    sequences: Sequence[Sequence[int]], samples: int, tokens: int | None = None, *, share: bool
) -> list[list[int]]:
    """Indices of each micro-batch, as `plan_micro_batches`; with `share` those together that begin
    alike. There `tokens` bounds what the nodes of a micro-batch's tree take, and its rows."""
    if not share:
        return plan_micro_batches([len(each) for each in sequences], samples, tokens)
    order, shared = shared_beginnings(sequences)
    plan: list[list[int]] = []
    current: list[int] = []
    nodes = rows = width = 0
    for place, index in enumerate(order):
        length, new = len(sequences[index]), len(sequences[index]) - int(shared[place])
        # The sequence before is no row of its own where this one begins with all of it.
        grown = bool(current) and shared[place] == len(sequences[order[place - 1]])
        more = rows if grown else rows + 1
        cost = nodes + new + KEYS_SHARE * more * max(width, length)
        if current and (len(current) == samples or (tokens is not None and cost > tokens)):
            plan.append(current)
            current, more, nodes, width, new = [], 1, 0, 0, length
        current.append(index)
        rows, nodes, width = more, nodes + new, max(width, length)
    return [*plan, current] if current else plan


def padding_share(lengths: Sequence[int], plan: Sequence[Sequence[int]]) -> float:
    """Share of the padded tokens of a plan that are padding."""
    padded = sum(max(lengths[i] for i in rows) * len(rows) for rows in plan)
    return 1.0 - sum(lengths) / padded if padded else 0.0


def split_evenly(count: int, most: int) -> list[range]:
    """Consecutive ranges that cover 0..count-1, of at most `most` each and of similar size, so that
    no optimizer step rests on the few samples left over."""
    parts = -(-count // most)
    edges = [count * part // parts for part in range(parts + 1)] if parts else [0]
    return [range(a, b) for a, b in pairwise(edges)]
