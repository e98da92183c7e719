"""Sampling with transformers' own `generate`, as one would without a loop of one's own.

All prompts of a turn in one call, padded on the left, until the last response has ended. To be
compared with an engine on the same episodes, each response is given beforehand: `generate` computes
and samples every token as usual, from logits that leave one choice.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from sdar.policy.chat import end_token_ids
from sdar.rollout.engines.base import Generation, Key


class Said(LogitsProcessor):
    """Leaves each row the token that its response has at this place; then the end."""

    def __init__(self, responses_BR: Tensor, start: int) -> None:
        self.responses_BR = responses_BR
        self.start = start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen_B1 = self.responses_BR[:, input_ids.shape[1] - self.start, None]
        return torch.full_like(scores, -torch.inf).scatter(1, chosen_B1, 0.0)


class GenerateEngine:
    """A `RolloutEngine` whose responses are those of `said`, by slot and turn."""

    def __init__(
        self, model: Any, tokenizer: Any, said: Mapping[tuple[int, int], list[int]]
    ) -> None:
        self.model = model
        self.ends = sorted(end_token_ids(model, tokenizer))
        self.said = said

    @torch.no_grad()
    def generate(
        self,
        prompt_ids: list[list[int]],
        keys: Sequence[Key],
        *,
        max_new_tokens: int,
        temperature: float,
    ) -> list[Generation]:
        """See `RolloutEngine.generate`; log-probs, which `generate` was not asked for, are 0."""
        responses = [self.said[slot, turn] for _, _, slot, turn in keys]
        width, end = max(map(len, prompt_ids)), self.ends[0]
        ids = torch.tensor([[end] * (width - len(row)) + row for row in prompt_ids])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompt_ids])
        padded = torch.tensor([row + [end] * (max_new_tokens - len(row)) for row in responses])
        made = self.model.generate(
            ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            do_sample=True,
            temperature=temperature,
            top_k=0,
            max_new_tokens=max_new_tokens,
            eos_token_id=self.ends,
            pad_token_id=end,
            logits_processor=LogitsProcessorList([Said(padded.to(self.model.device), width)]),
        )[:, width:].tolist()
        for row, response in zip(made, responses, strict=True):
            if row[: len(response)] != response:
                raise ValueError("generate said something else than it was given")
        return [Generation(response, [0.0] * len(response)) for response in responses]
