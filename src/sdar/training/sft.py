"""Supervised fine-tuning on (prompt, response) pairs: the loss is on response tokens alone.

Shapes: S samples of a batch, R tokens of its longest response.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sdar.policy.micro_batches import pad_batch
from sdar.policy.paths import shares_prefixes
from sdar.policy.reproducible import exact_kernels
from sdar.sums import add_in_order
from sdar.training.optimizer import clip_gradients
from sdar.training.placed import PlacedPolicy
from sdar.training.shares import StepShares
from sdar.training.skips import Skips, first_not_finite, take_step

# Batches are cut from this many batches' worth of samples sorted by length, so padding stays small.
_POOL = 16


@dataclass(frozen=True)
class Sample:
    """One turn to imitate, as token ids."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]


@dataclass(frozen=True)
class Schedule:
    """One phase: learning rates warm up linearly, then follow a cosine down to a twentieth."""

    updates: int
    warmup: int
    scale: float = 1.0
    """Factor on the optimizer's own learning rates."""

    def at(self, update: int) -> float:
        """Factor on the learning rates at an update counted from 0."""
        if update < self.warmup:
            return self.scale * (update + 1) / self.warmup
        progress = (update - self.warmup) / max(1, self.updates - self.warmup)
        return self.scale * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def batch_order(
    lengths: Sequence[int], batch: int, updates: int, seed: int
) -> Iterator[np.ndarray]:
    """Indices of each update's samples, `updates` arrays of at most `batch`.

    Every epoch visits each sample once, in an order that is a function of `seed` alone.
    """
    total = np.asarray(lengths)
    done, epoch = 0, 0
    while done < updates:
        random = np.random.default_rng([seed, epoch])
        order = random.permutation(len(total))
        pools = [order[i : i + batch * _POOL] for i in range(0, len(order), batch * _POOL)]
        for pool in pools:
            pool = pool[np.argsort(total[pool], kind="stable")]
            cut = [pool[i : i + batch] for i in range(0, len(pool), batch)]
            for index in random.permutation(len(cut)):
                if done == updates:
                    return
                yield cut[index]
                done += 1
        epoch += 1


def supervised_loss(
    scorer: Any,
    samples: Sequence[Sample],
    tokens: int | None = None,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Negative log-likelihood of the response tokens of `samples` (scalar, nats), divided by
    `tokens`: those of the whole batch that they are a part of; None: their own, so it is a mean."""
    batch = pad_batch(
        [sample.prompt_ids for sample in samples],
        [sample.response_ids for sample in samples],
        device,
        share=shares_prefixes(scorer.model),
    )
    log_probs_SR = scorer(batch).log_probs
    return -log_probs_SR[batch.mask_SR].sum() / (tokens or response_tokens(samples))


def response_tokens(samples: Sequence[Sample]) -> int:
    return sum(len(sample.response_ids) for sample in samples)


def add_gradients(
    policy: PlacedPolicy, samples: Sequence[Sample], micro_batch: int | None = None
) -> float:
    """Add the gradient of a batch's mean loss, each rank computing its share; the loss.

    `micro_batch`: most samples of a pass; None: all of them at once, in their order."""
    accelerator, ranks = policy.accelerator, policy.ranks
    if micro_batch is None:
        plans = [[list(range(len(samples)))]]
    else:
        (share,) = StepShares.of_step(
            [[*sample.prompt_ids, *sample.response_ids] for sample in samples],
            ranks.count,
            minibatch=len(samples),
            micro_batch=micro_batch,
            micro_batch_tokens=policy.micro_batch_tokens,
            share=policy.shares_prefixes,
        ).minibatches
        plans = share.plans
    if policy.sharded:
        ranks.require_same("the passes of an update", [len(plan) for plan in plans])
    tokens, losses = response_tokens(samples), []
    with exact_kernels(accelerator.device, policy.config.execution.deterministic):
        for rows in plans[ranks.rank]:
            with accelerator.autocast():
                part = [samples[row] for row in rows]
                loss = supervised_loss(policy.scorer, part, tokens, accelerator.device)
            accelerator.backward(loss)
            losses.append(loss.detach())
        if policy.sharded:
            for _ in range(len(losses), max(map(len, plans))):
                policy.empty_pass()
        else:
            ranks.sum_gradients(policy.scorer.parameters())
    # On all ranks the same: what is not finite on one of them, all skip.
    return add_in_order(ranks.gather(add_in_order(map(float, losses))))


def fine_tune(
    policy: PlacedPolicy,
    optimizer: Any,
    samples: Sequence[Sample],
    *,
    schedule: Schedule,
    batch: int,
    seed: int,
    micro_batch: int | None = None,
    start: int = 0,
    first_update: int = 0,
    skips: Skips | None = None,
    on_update: Callable[[int, float], None] | None = None,
) -> None:
    """Run updates `start` .. `schedule.updates`; `on_update(update, loss)` follows each.

    A function of (weights, optimizer state, samples, seed): a continued phase is the same phase.
    Messages count updates from `first_update` on. An update with a number that is not finite is
    skipped; raises `SdarError` after too many, and where weights are not finite after one.
    `micro_batch` as in `add_gradients`.
    """
    skips = skips or Skips(1, None)
    lengths = [len(s.prompt_ids) + len(s.response_ids) for s in samples]
    for update, chosen in enumerate(batch_order(lengths, batch, schedule.updates, seed)):
        if update < start:
            continue
        optimizer.scale_learning_rates(schedule.at(update))
        batched = [samples[i] for i in chosen]
        optimizer.zero_grad()
        loss = add_gradients(policy, batched, micro_batch)
        norm = clip_gradients(policy.scorer.parameters(), 1.0)
        name = f"update {first_update + update + 1:05d}"
        wrong = first_not_finite({"the loss": loss, "the gradient": norm})
        if wrong is None:
            take_step(optimizer, policy.scorer.parameters(), name, "warm_start.learning_rate")
            skips.taken()
        else:
            skips.skip(name, wrong, map(vars, batched))
        if on_update is not None:
            on_update(update, loss)
