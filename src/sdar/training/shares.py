"""Which rank does what. Pure: every rank works out everybody's share for itself.

Shares are a matter of speed: each split gives the same step, up to the rounding of sums (in
bfloat16 that is about .01 of a token's log-prob, not the last digits).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sdar.policy.micro_batches import padding_share, plan_passes, split_evenly
from sdar.policy.prefix_tree import shared_beginnings


def slots_of_rank(slots: int, ranks: int, rank: int) -> range:
    """The consecutive slots a rank plays; whole groups where the number of groups divides."""
    return range(-(-slots * rank // ranks), -(-slots * (rank + 1) // ranks))


def deal(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Indices for each rank, in order: the longest first, dealt in turn, back and forth.

    So ranks get equally many samples (give or take one) of about the same lengths, and the
    micro-batches that they compute at the same time are about equally long.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for place, index in enumerate(order):
        lap, seat = divmod(place, ranks)
        shares[seat if lap % 2 == 0 else ranks - 1 - seat].append(index)
    return [sorted(share) for share in shares]


def deal_shared(sequences: Sequence[Sequence[int]], ranks: int) -> list[list[int]]:
    """As `deal`, but sequences that begin alike go to one rank: each takes a run of them, in
    lexicographic order, with about the same number of tokens that are to be computed."""
    order, shared = shared_beginnings(sequences)
    shares: list[list[int]] = [[] for _ in range(ranks)]
    own = [len(sequences[index]) - int(same) for index, same in zip(order, shared, strict=True)]
    total, before = sum(own), 0
    for index, tokens in zip(order, own, strict=True):
        shares[(2 * before + tokens) * ranks // (2 * total + 1)].append(index)
        before += tokens
    return [sorted(share) for share in shares]


@dataclass(frozen=True)
class MinibatchShare:
    """One optimizer step: its samples, and the micro-batches of each rank."""

    samples: range
    plans: list[list[list[int]]]
    """Sample numbers by rank and micro-batch."""
    padding: float
    """Share of the padded tokens, over all ranks, that are padding. Of beginnings that are computed
    once it is attention alone that has any."""

    @property
    def passes(self) -> int:
        """Micro-batches of the rank that has most."""
        return max(map(len, self.plans))


@dataclass(frozen=True)
class StepShares:
    """The samples of a step on their ranks: a sample is scored where it is learnt from."""

    minibatches: list[MinibatchShare]
    samples: list[list[int]]
    """Sample numbers of each rank, in order."""

    @classmethod
    def of_step(
        cls,
        sequences: Sequence[Sequence[int]],
        ranks: int,
        *,
        minibatch: int,
        micro_batch: int,
        micro_batch_tokens: int | None,
        share: bool,
    ) -> "StepShares":
        """`sequences` are prompts with their responses; `minibatch` and `micro_batch` the most
        samples of each. With `share`, those that begin alike are computed together."""
        minibatches = []
        samples: list[list[int]] = [[] for _ in range(ranks)]
        for part in split_evenly(len(sequences), minibatch):
            of_part = [sequences[i] for i in part]
            lengths = [len(each) for each in of_part]
            plans = []
            for mine in deal_shared(of_part, ranks) if share else deal(lengths, ranks):
                plan = plan_passes(
                    [of_part[i] for i in mine], micro_batch, micro_batch_tokens, share=share
                )
                plans.append([[mine[i] for i in places] for places in plan])
            padding = padding_share(lengths, [rows for plan in plans for rows in plan])
            numbered = [[[part[i] for i in rows] for rows in plan] for plan in plans]
            for rank, plan in enumerate(numbered):
                samples[rank] += sorted(row for rows in plan for row in rows)
            minibatches.append(MinibatchShare(part, numbered, padding))
        return cls(minibatches, samples)
