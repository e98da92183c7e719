"""The check after each transfer of weights: does the engine compute what the trainer computes?

The engine answers a few prompts greedily, as in a rollout, and the trainer scores these answers.
With the right weights their log-probs differ by rounding alone; an engine with mixed up, missing or
garbled weights answers with tokens that the trainer finds unlikely.

Shape suffixes: S samples, R response tokens, N response tokens of all samples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdar.errors import SdarError
from sdar.rollout.engines.base import Generation, Key

PROMPTS = 4
PROMPT_TOKENS = 32
RESPONSE_TOKENS = 16
TEXTS = (
    "You are in the kitchen. On the table are a knife, an apple and two cups. What do you do next?",
    "Question: In which year was the bridge over the river opened? Search first, then answer.",
    "I am looking for a light blue cotton shirt in size medium, and a price below 40 dollars.",
    "Your task is to put a clean plate in the fridge. You have opened the cabinet and see nothing.",
)
"""Asked before the first rollout. Text: rounding moves log-probs of random tokens by more."""
TOLERANCES = {"float32": 0.05, "bfloat16": 0.15}
"""Of `rollout.vllm.tolerance: null`, in nats per token. Rounding makes some .03 in bfloat16 (.04 on
random tokens) and 1e-5 in float32; wrong weights make whole nats."""

Trusted = Callable[[list[list[int]], list[list[int]]], Tensor]
"""The trainer's log-probs `[S, R]` (nats, temperature 1) of responses after prompts. On many ranks
all call it together, each with its own prompts."""


Sample = Callable[[list[list[int]], Sequence[Key], int, float], list[Generation]]
"""The engine's responses to prompts: keys, most tokens, temperature."""


class LogProbDifference(NamedTuple):
    """Of engine's and trainer's log-probs, in nats per token."""

    mean: float
    median: float
    most: float


@dataclass
class Probe:
    """The check of one engine.

    `tokenizer` makes the first prompts. `longest`: most tokens of a prompt with its response.
    Errors name `engine` and `rank`.
    """

    trusted: Trusted
    tokenizer: Any
    longest: int
    tolerance: float
    rank: int
    engine: str
    _seen: list[list[int]] = field(default_factory=list, init=False)

    def remember(self, prompt_ids: list[list[int]]) -> None:
        """Take the first rollout's first prompts for all later checks."""
        for ids in prompt_ids:
            if len(self._seen) == PROMPTS:
                return
            if ids not in self._seen:
                self._seen.append(ids)

    def verify(self, sample: Sample, step: int) -> None:
        """Raise `SdarError` when the log-probs differ by more than `tolerance` on average."""
        tokens = min(RESPONSE_TOKENS, self.longest - 1)
        prompts = self._seen or first_prompts(self.tokenizer, self.longest - tokens)
        tokens = min(tokens, self.longest - max(map(len, prompts)))
        keys = [(0, step, slot, 0) for slot in range(len(prompts))]
        generations = sample(prompts, keys, tokens, 0.0)
        trusted_SR = self.trusted(prompts, [g.token_ids for g in generations])
        apart = difference(generations, trusted_SR)
        if apart.mean <= self.tolerance:
            return
        # Also where the mean is not a number.
        raise SdarError(
            f"rank {self.rank}, step {step}: after the transfer of weights the log-probs of "
            f"{self.engine} differ from the trainer's by {apart.mean:.3g} nats per token (median "
            f"{apart.median:.3g}, at most {apart.most:.3g}), beyond rollout.vllm.tolerance "
            f"({self.tolerance:g}): the engine's weights are wrong "
            "(with tied embeddings, lm_head.weight must be among those sent); if the "
            "difference is rounding in policy.dtype, raise the tolerance"
        )


def tolerance_of(given: float | None, dtype: str) -> float:
    """`rollout.vllm.tolerance`, or what suits `policy.dtype`."""
    return TOLERANCES[dtype] if given is None else given


def first_prompts(tokenizer: Any, longest: int) -> list[list[int]]:
    """Prompts before the first rollout: the beginnings of texts, always the same."""
    most = max(1, min(PROMPT_TOKENS, longest))
    return [tokenizer(text, add_special_tokens=False)["input_ids"][:most] for text in TEXTS]


def difference(generations: Sequence[Generation], trusted_SR: Tensor) -> LogProbDifference:
    """Between the engine's log-probs of its own tokens and the trainer's of the same tokens."""
    engine_N = torch.tensor([p for g in generations for p in g.log_probs], dtype=torch.float64)
    trusted_N = torch.cat(
        [trusted_SR[row, : len(g.token_ids)] for row, g in enumerate(generations)]
    )
    apart_N = (engine_N - trusted_N.double()).abs()
    return LogProbDifference(float(apart_N.mean()), float(apart_N.median()), float(apart_N.max()))
