"""From lists of token ids to tensors: padding on the right, micro-batches of similar length.

Shape suffixes: S samples, T tokens of the longest sequence, R of the longest response.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

CPU_TOKENS = 4096
"""Padded tokens of a pass on a CPU: what stays in its caches."""
GPU_PREFILL_TOKENS = 32_768
"""Padded tokens of prompts that an engine reads at once on a GPU: enough to fill it."""


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


def pad_batch(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    device: torch.device | str = "cpu",
) -> TokenBatch:
    """Pad on the right. Prompts and responses must not be empty."""
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
    arrays = (input_ids, positions, targets, mask)
    return TokenBatch(*(torch.from_numpy(array).to(device) for array in arrays))


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
