"""The check after each transfer of weights: does the engine compute what the trainer computes?

The engine answers a few fixed prompts greedily, which takes the rollout's own path, and the trainer
scores these answers. With the right weights the two sides' log-probs differ by rounding alone; an
engine that mixes up, misses or garbles weights answers with tokens that the trainer finds unlikely.

Shape suffixes: S samples, R response tokens, N response tokens of all samples.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdar.errors import SdarError
from sdar.rollout.engines.base import Generation

PROMPTS = 4
PROMPT_TOKENS = 32
RESPONSE_TOKENS = 16

Trusted = Callable[[list[list[int]], list[list[int]]], Tensor]
"""The trainer's log-probs `[S, R]` (nats, temperature 1) of responses after prompts. On many ranks
all call it together, each with its own prompts."""


class Difference(NamedTuple):
    """Of the two sides' log-probs, in nats a token."""

    mean: float
    most: float


def first_prompts(vocabulary: int, longest: int) -> list[list[int]]:
    """Prompts for the time before there are any: token ids below `vocabulary`, always the same."""
    draws = np.random.Generator(np.random.Philox(key=0))
    shape = (PROMPTS, max(1, min(PROMPT_TOKENS, longest)))
    return draws.integers(vocabulary, size=shape).tolist()  # type: ignore[no-any-return]


def difference(generations: Sequence[Generation], trusted_SR: Tensor) -> Difference:
    """Between the engine's log-probs of its own tokens and the trainer's of the same tokens."""
    engine_N = torch.tensor([p for g in generations for p in g.log_probs], dtype=torch.float64)
    trusted_N = torch.cat(
        [trusted_SR[row, : len(g.token_ids)] for row, g in enumerate(generations)]
    )
    apart_N = (engine_N - trusted_N.double()).abs()
    return Difference(float(apart_N.mean()), float(apart_N.max()))


def check(found: Difference, tolerance: float, *, step: int, rank: int, engine: str) -> None:
    """Raise `SdarError` when the mean difference is beyond `tolerance`, or no number."""
    if found.mean <= tolerance:
        return
    raise SdarError(
        f"rank {rank}, step {step}: after the transfer of weights the log-probs of {engine} differ "
        f"from the trainer's by {found.mean:.3g} nats a token (at most {found.most:.3g}), beyond "
        f"rollout.vllm.tolerance ({tolerance:g}): the engine's weights are wrong (with tied "
        "embeddings, lm_head.weight must be among those sent); if the difference is rounding in "
        "policy.dtype, raise the tolerance"
    )
