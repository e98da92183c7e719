"""Which rank does what. Pure: every rank works out everybody's share for itself.

Shares are a matter of speed: each split gives the same step, up to the rounding of sums (in
bfloat16 that is about .01 of a token's log-prob, not the last digits).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sdar.policy.micro_batches import padding_share, plan_micro_batches, split_evenly


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


@dataclass(frozen=True)
class MinibatchShare:
    """One optimizer step: its samples, and the micro-batches of each rank."""

    samples: range
    plans: list[list[list[int]]]
    """Sample numbers by rank and micro-batch."""
    padding: float
    """Share of the padded tokens, over all ranks, that are padding."""

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
        lengths: Sequence[int],
        ranks: int,
        *,
        minibatch: int,
        micro_batch: int,
        micro_batch_tokens: int | None,
    ) -> "StepShares":
        """`lengths` in tokens; `minibatch` and `micro_batch` are the most samples of each."""
        minibatches = []
        samples: list[list[int]] = [[] for _ in range(ranks)]
        for part in split_evenly(len(lengths), minibatch):
            of_part = [lengths[i] for i in part]
            plans = []
            for share in deal(of_part, ranks):
                plan = plan_micro_batches(
                    [of_part[i] for i in share], micro_batch, micro_batch_tokens
                )
                plans.append([[share[i] for i in places] for places in plan])
            padding = padding_share(of_part, [rows for plan in plans for rows in plan])
            numbered = [[[part[i] for i in rows] for rows in plan] for plan in plans]
            for rank, plan in enumerate(numbered):
                samples[rank] += sorted(row for rows in plan for row in rows)
            minibatches.append(MinibatchShare(part, numbered, padding))
        return cls(minibatches, samples)
