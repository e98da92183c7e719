"""Log-probabilities and entropies of response tokens: one kernel for everyone who needs them.

Student, old policy, teacher and reference are all scored here. Prompt positions are dropped before
the head, and the head works on chunks of response tokens: `[chunk, vocabulary]` in float32 is the
most that ever exists, in the backward pass too (there, several chunks are computed again).

Shape suffixes: S samples, T tokens of a padded sequence, R response tokens of a padded response,
N response tokens of all samples, C tokens of a chunk, D hidden size, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sdar.policy.batches import TokenBatch, pad_batch, plan_micro_batches
from sdar.policy.trunk import hidden_states_at, hidden_states_packed

CHUNK_LOGITS = 1 << 26
"""Logits of a chunk: 256 MiB of float32."""


class Scores(NamedTuple):
    """Per response token `[S, R]`, 0 on padding: log-probability and entropy, in nats."""

    log_probs: Tensor
    entropy: Tensor | None


class PolicyScorer(nn.Module):
    """A policy as a function from a batch of tokens to `Scores`.

    A module, so that accelerate wraps it as one and its forward is the only way in: what shards
    or replicates parameters sees every use of them.
    """

    def __init__(
        self, model: Any, *, temperature: float = 1.0, chunk_logits: int = CHUNK_LOGITS
    ) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.chunk_logits = chunk_logits

    def forward(self, batch: TokenBatch, entropy: bool = False, packed: bool = False) -> Scores:
        """Score the responses of `batch`; `packed` puts all samples in one row without padding.

        With `entropy`, both results carry gradient where autograd is on.
        """
        trunk = hidden_states_packed if packed else hidden_states_at
        hidden_SRD = trunk(self.model, batch.input_ids_ST, batch.positions_SR)
        hidden_ND = hidden_SRD[batch.mask_SR]
        log_probs_N, entropy_N = self._head(hidden_ND, batch.targets_SR[batch.mask_SR], entropy)
        return Scores(
            _scatter(log_probs_N, batch.mask_SR),
            _scatter(entropy_N, batch.mask_SR) if entropy else None,
        )

    def _head(self, hidden_ND: Tensor, targets_N: Tensor, entropy: bool) -> tuple[Tensor, Tensor]:
        size = max(1, self.chunk_logits // self.model.config.vocab_size)
        pieces = list(zip(hidden_ND.split(size), targets_N.split(size), strict=True))
        recompute = torch.is_grad_enabled() and len(pieces) > 1
        scored = [
            checkpoint(self._chunk, hidden_CD, targets_C, entropy, use_reentrant=False)
            if recompute
            else self._chunk(hidden_CD, targets_C, entropy)
            for hidden_CD, targets_C in pieces
        ]
        return torch.cat([s[0] for s in scored]), torch.cat([s[1] for s in scored])

    def _chunk(self, hidden_CD: Tensor, targets_C: Tensor, entropy: bool) -> tuple[Tensor, Tensor]:
        logits_CV = self.model.lm_head(hidden_CD).float()
        if self.temperature != 1.0:
            logits_CV = logits_CV / self.temperature
        if not entropy:
            chosen_C = logits_CV.gather(1, targets_C[:, None])[:, 0]
            log_probs_C = chosen_C - logits_CV.logsumexp(dim=-1)
            return log_probs_C, torch.zeros_like(log_probs_C)
        all_log_probs_CV = logits_CV.log_softmax(dim=-1)
        log_probs_C = all_log_probs_CV.gather(1, targets_C[:, None])[:, 0]
        return log_probs_C, -(all_log_probs_CV.exp() * all_log_probs_CV).sum(dim=-1)


@torch.no_grad()
def score_responses(
    scorer: nn.Module,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    micro_batch: int = 64,
    micro_batch_tokens: int | None = 4096,
    entropy: bool = False,
    device: torch.device | str = "cpu",
) -> Scores:
    """`[S, R]` scores of responses after prompts, on the CPU, without gradient.

    The micro-batches (samples, padded tokens) bound the memory and never change the result.
    """
    width = max(map(len, responses), default=0)
    log_probs_SR = torch.zeros(len(responses), width)
    entropy_SR = torch.zeros(len(responses), width) if entropy else None
    lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    for rows in plan_micro_batches(lengths, micro_batch, micro_batch_tokens):
        batch = pad_batch([prompts[i] for i in rows], [responses[i] for i in rows], device)
        scores = scorer(batch, entropy=entropy)
        columns = scores.log_probs.shape[1]
        log_probs_SR[rows, :columns] = scores.log_probs.cpu()
        if entropy_SR is not None:
            entropy_SR[rows, :columns] = scores.entropy.cpu()
    return Scores(log_probs_SR, entropy_SR)


def _scatter(values_N: Tensor, mask_SR: Tensor) -> Tensor:
    """Back to `[S, R]`, zeros on padding; differentiable."""
    return values_N.new_zeros(mask_SR.shape).masked_scatter(mask_SR, values_N)
