"""Supervised fine-tuning on (prompt, response) pairs: the loss is on response tokens alone.

Shapes: S samples of a batch, R tokens of its longest response.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sdar.policy.log_probs import PolicyScorer
from sdar.policy.micro_batches import pad_batch
from sdar.training.muon import MuonWithAdamW
from sdar.training.optimizer import clip_gradients
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


def supervised_loss(scorer: PolicyScorer, samples: Sequence[Sample]) -> torch.Tensor:
    """Mean negative log-likelihood over all response tokens of the batch (scalar, nats)."""
    device = next(scorer.parameters()).device
    batch = pad_batch(
        [sample.prompt_ids for sample in samples],
        [sample.response_ids for sample in samples],
        device,
    )
    log_probs_SR = scorer(batch).log_probs
    return -log_probs_SR[batch.mask_SR].mean()


def fine_tune(
    model: Any,
    optimizer: MuonWithAdamW,
    samples: Sequence[Sample],
    *,
    schedule: Schedule,
    batch: int,
    seed: int,
    start: int = 0,
    first_update: int = 0,
    skips: Skips | None = None,
    on_update: Callable[[int, float], None] | None = None,
) -> None:
    """Run updates `start` .. `schedule.updates`; `on_update(update, loss)` follows each.

    A function of (weights, optimizer state, samples, seed): a continued phase is the same phase.
    Messages count updates from `first_update` on. An update with a number that is not finite is
    skipped; raises `SdarError` after too many, and where weights are not finite after one.
    """
    skips = skips or Skips(1, None)
    lengths = [len(s.prompt_ids) + len(s.response_ids) for s in samples]
    scorer = PolicyScorer(model)
    scorer.train()
    for update, chosen in enumerate(batch_order(lengths, batch, schedule.updates, seed)):
        if update < start:
            continue
        optimizer.scale_learning_rates(schedule.at(update))
        batched = [samples[i] for i in chosen]
        loss = supervised_loss(scorer, batched)
        optimizer.zero_grad()
        loss.backward()
        norm = clip_gradients(model.parameters(), 1.0)
        name = f"update {first_update + update + 1:05d}"
        wrong = first_not_finite({"the loss": loss.detach(), "the gradient": norm})
        if wrong is None:
            take_step(optimizer, model.parameters(), name, "warm_start.learning_rate")
            skips.taken()
        else:
            skips.skip(name, wrong, map(vars, batched))
        if on_update is not None:
            on_update(update, float(loss.detach()))
