"""From a loss per token to one number, the same however the batch is cut.

Legend: S samples, T tokens. Every aggregation is a weighted sum over response tokens divided by a
denominator that belongs to the whole batch:

    token-mean           weight 1                     / response tokens
    seq-mean-token-mean  weight 1/(tokens of sample)  / samples
    seq-mean-token-sum   weight 1                     / samples

so micro-batch losses that share the global denominator add up to the loss of the whole batch, and
so do their gradients. (The reference divides per micro-batch and adds 1e-8 to the divisor.)
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from sdar.errors import SdarError

LossAggregation = Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"]
LOSS_AGGREGATIONS: tuple[str, ...] = get_args(LossAggregation)
PerToken = tuple[Tensor, dict[str, Tensor]]
"""What a term of the loss returns: its value per token [S, T], and statistics of these tokens."""


@dataclass(frozen=True)
class Aggregation:
    """How the values of a loss's tokens become one number."""

    mode: str
    """One of `LOSS_AGGREGATIONS`."""
    denominator: float | Tensor | None = None
    """That of the global batch (`global_denominator`) when the tokens are a part of it; None:
    they are the whole batch."""
    sequence: Tensor | None = None
    """[S, T] sample number of each token, for packed rows that hold several samples; only the
    `seq-*` modes need it. A sample must lie in one part entirely."""


def response_tokens(response_mask_ST: Tensor) -> Tensor:
    """The mask as booleans: any non-zero entry marks a response token."""
    return response_mask_ST != 0


def clean(values_ST: Tensor, mask_ST: Tensor) -> Tensor:
    """Zeros where `mask_ST` is false, so that no value and no NaN there reaches a loss."""
    return values_ST.masked_fill(~mask_ST, 0.0)


def masked_mean(values_ST: Tensor, mask_ST: Tensor) -> Tensor:
    """Mean over the true entries of a boolean mask, detached; 0 when there are none."""
    return clean(values_ST.detach(), mask_ST).sum() / mask_ST.sum().clamp(min=1)


def _tokens_of_sequence(mask_ST: Tensor, sequence_ST: Tensor | None) -> Tensor:
    """For each token, how many response tokens its sequence has: [S, T] (or [S, 1])."""
    if sequence_ST is None:
        return mask_ST.sum(dim=-1, keepdim=True)
    codes = torch.unique(sequence_ST, return_inverse=True)[1].flatten()
    counts = torch.zeros(int(codes.max()) + 1, dtype=torch.long, device=codes.device)
    counts.index_add_(0, codes, mask_ST.flatten().long())
    return counts[codes].view(mask_ST.shape)


def global_denominator(
    response_mask_ST: Tensor, mode: str, *, sequence: Tensor | None = None
) -> Tensor:
    """What the sum over a batch is divided by: its response tokens, or its samples. At least 1.

    Args:
        response_mask_ST: [S, T], non-zero at response tokens.
        mode: one of `LOSS_AGGREGATIONS`.
        sequence: [S, T] sample number of each token; only for packed rows that hold several.

    A sample without response tokens is padding and is not counted. Denominators of parts add up,
    so ranks may sum theirs.
    """
    mask_ST = response_tokens(response_mask_ST)
    if mode == "token-mean":
        count = mask_ST.sum()
    elif mode in LOSS_AGGREGATIONS:
        if sequence is None:
            count = mask_ST.any(dim=-1).sum()
        else:
            present = torch.unique(sequence[mask_ST])
            count = torch.tensor(present.numel(), device=mask_ST.device)
    else:
        raise SdarError(
            f"loss_agg is {mode!r}, expected one of {', '.join(LOSS_AGGREGATIONS)}: "
            "correct training.loss_aggregation"
        )
    return count.clamp(min=1)


def aggregate(values_ST: Tensor, response_mask_ST: Tensor, how: Aggregation) -> Tensor:
    """One differentiable scalar from a loss per token.

    Args:
        values_ST: [S, T] per-token loss, in nats or any unit.
        response_mask_ST: [S, T], non-zero at response tokens; the rest has no influence.

    Raises:
        SdarError: unknown mode.
    """
    mask_ST = response_tokens(response_mask_ST)
    denominator = how.denominator
    if denominator is None or how.mode not in LOSS_AGGREGATIONS:
        denominator = global_denominator(response_mask_ST, how.mode, sequence=how.sequence)
    values_ST = clean(values_ST, mask_ST)
    if how.mode == "seq-mean-token-mean":
        values_ST = values_ST / _tokens_of_sequence(mask_ST, how.sequence).clamp(min=1)
    return values_ST.sum() / denominator
