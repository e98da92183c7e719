"""Supervised fine-tuning on (prompt, response) pairs: the loss is on response tokens alone.

Shapes: B samples, T tokens of the longest sample of the batch, R response tokens of the batch,
V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

# Batches are cut from this many batches' worth of samples sorted by length, so padding stays small.
_POOL = 16


@dataclass(frozen=True)
class Sample:
    """One turn to imitate, as token ids."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]


@dataclass(frozen=True)
class Schedule:
    """Learning rate of one phase: linear warm-up, then cosine down to a twentieth."""

    learning_rate: float
    warmup: int
    updates: int

    def at(self, update: int) -> float:
        if update < self.warmup:
            return self.learning_rate * (update + 1) / self.warmup
        progress = (update - self.warmup) / max(1, self.updates - self.warmup)
        return self.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


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


def supervised_loss(model: torch.nn.Module, samples: Sequence[Sample]) -> torch.Tensor:
    """Mean cross-entropy over all response tokens of the batch (scalar)."""
    width = max(len(s.prompt_ids) + len(s.response_ids) for s in samples)
    device = next(model.parameters()).device
    ids_BT = torch.zeros(len(samples), width, dtype=torch.long)
    mask_BT = torch.zeros(len(samples), width, dtype=torch.long)
    target_BT = torch.zeros(len(samples), width, dtype=torch.bool)
    for row, sample in enumerate(samples):
        tokens = [*sample.prompt_ids, *sample.response_ids]
        ids_BT[row, : len(tokens)] = torch.tensor(tokens)
        mask_BT[row, : len(tokens)] = 1
        target_BT[row, len(sample.prompt_ids) : len(tokens)] = True
    ids_BT, mask_BT, target_BT = (x.to(device) for x in (ids_BT, mask_BT, target_BT))
    hidden_BTH = model.model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
    # Only positions that predict a response token reach the head.
    hidden_RH = hidden_BTH[:, :-1][target_BT[:, 1:]]
    logits_RV = model.lm_head(hidden_RH)
    return F.cross_entropy(logits_RV.float(), ids_BT[:, 1:][target_BT[:, 1:]])


def make_optimizer(
    model: torch.nn.Module, learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW with decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=(0.9, 0.98),
    )


def fine_tune(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    samples: Sequence[Sample],
    *,
    schedule: Schedule,
    batch: int,
    seed: int,
    start: int = 0,
    on_update: Callable[[int, float], None] | None = None,
) -> None:
    """Run updates `start` .. `schedule.updates`; `on_update(update, loss)` follows each.

    A function of (weights, optimizer state, samples, seed): a continued phase is the same phase.
    """
    lengths = [len(s.prompt_ids) + len(s.response_ids) for s in samples]
    model.train()
    for update, chosen in enumerate(batch_order(lengths, batch, schedule.updates, seed)):
        if update < start:
            continue
        for group in optimizer.param_groups:
            group["lr"] = schedule.at(update)
        loss = supervised_loss(model, [samples[i] for i in chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if on_update is not None:
            on_update(update, float(loss.detach()))
