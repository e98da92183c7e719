"""What a model's own forward says of responses, one sequence at a time: expected values."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Tokens = Sequence[list[int]]


def scores(
    prompts: Tokens, responses: Tokens, model: Any, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """[S, R] log-probs and entropies from full logits, 0 on padding."""
    width = max(map(len, responses))
    log_probs, entropies = (torch.zeros(len(responses), width) for _ in range(2))
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        ids = torch.tensor([prompt + response])
        logits = model(input_ids=ids, use_cache=False).logits[0] / temperature
        every = logits[len(prompt) - 1 : -1].log_softmax(-1)
        count = len(response)
        log_probs[row, :count] = every[torch.arange(count), torch.tensor(response)]
        entropies[row, :count] = -(every.exp() * every).sum(-1)
    return log_probs, entropies


def gradients(model: Any, log_probs: Tensor, entropies: Tensor) -> dict[str, Tensor]:
    """Of a sum in which every token of both has a weight of its own, by parameter."""
    model.zero_grad()
    weights = torch.linspace(-1.0, 2.0, log_probs.numel()).view(log_probs.shape)
    (weights * log_probs + 0.3 * weights.flip(0) * entropies).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
