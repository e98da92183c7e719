"""The policy in training on its devices: alone, one copy per rank, or shared out over the ranks."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sdar.config import ExperimentConfig
from sdar.policy.log_probs import PolicyScorer
from sdar.policy.micro_batches import CPU_TOKENS, one_token
from sdar.policy.paths import shares_prefixes
from sdar.policy.sharding import shard
from sdar.ranks.ranks import Ranks
from sdar.training.shares import StepShares
from sdar.training.step_batch import StepBatch


@dataclass(frozen=True)
class PlacedPolicy:
    """A model, what scores with it, and who computes what.

    Shape suffixes: S samples, R response tokens.
    """

    model: Any
    scorer: Any
    config: ExperimentConfig
    accelerator: Any
    ranks: Ranks
    sharded: bool
    """Each rank holds a part of the weights, and all make every pass together."""
    _shares: WeakKeyDictionary[StepBatch, StepShares] = field(
        default_factory=WeakKeyDictionary, repr=False
    )

    @property
    def micro_batch_tokens(self) -> int | None:
        """Most padded tokens of a pass; None on a GPU, where `micro_batch` alone cuts."""
        return CPU_TOKENS if self.accelerator.device.type == "cpu" else None

    @property
    def shares_prefixes(self) -> bool:
        """Whether tokens that sequences begin with in common are computed once."""
        return shares_prefixes(self.model)

    def shares(self, batch: StepBatch) -> StepShares:
        """Which rank computes which samples, in which micro-batches; worked out once."""
        training = self.config.training
        if batch in self._shares:
            return self._shares[batch]
        self._shares[batch] = StepShares.of_step(
            batch.sequences,
            self.ranks.count,
            minibatch=training.minibatch,
            micro_batch=training.micro_batch,
            micro_batch_tokens=self.micro_batch_tokens,
            share=self.shares_prefixes,
        )
        return self._shares[batch]

    def own_samples(self, batch: StepBatch) -> list[int]:
        """The numbers of this rank's samples."""
        return self.shares(batch).samples[self.ranks.rank]

    def everywhere(self, batch: StepBatch, mine: list[int], own_SR: Tensor) -> Tensor:
        """`[S, R]` of the whole step from each rank's own samples, 0 at those that no rank has."""
        if self.ranks.count == 1 and len(mine) == len(batch):
            return own_SR
        every_SR = torch.zeros(batch.response_mask_SR.shape, dtype=own_SR.dtype)
        every_SR[mine, : own_SR.shape[1]] = own_SR
        return self.ranks.sum(every_SR)

    def empty_pass(self) -> None:
        """Forward and backward of no weight, because other ranks make one."""
        with self.accelerator.autocast():
            scores = self.scorer(one_token(self.accelerator.device), entropy=True)
        self.accelerator.backward(0.0 * scores.log_probs.sum())


class ThisProcess:
    """What is used of an `Accelerator`, for one process on a CPU that computes in float32."""

    device = torch.device("cpu")

    def autocast(self) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]


def place(
    policy: Any,
    config: ExperimentConfig,
    accelerator: Any,
    sharded: bool,
    temperature: float | None = None,
) -> Any:
    """A scorer of `policy` on its devices, at the temperature of sampling or another."""
    usual = config.rollout.temperature
    scorer = PolicyScorer(policy, temperature=usual if temperature is None else temperature)
    if sharded:
        return shard(scorer, accelerator)
    # Not as accelerate prepares for training: a rank passes as often as its share takes,
    # and its gradients are added to the others' once (`Ranks.sum_gradients`).
    return accelerator.prepare_model(scorer, evaluation_mode=True)
