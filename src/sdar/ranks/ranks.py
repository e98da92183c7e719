"""What the ranks of one training job exchange; a single process has nothing to exchange.

Episodes, scores and losses of a step are gathered, so every rank holds the same step and decides
alike; only passes through the model are split (`training.shares`). Small values go by gloo between
CPUs, whatever carries gradients: when a rank dies, those that wait for it get an error at once.
"""

import socket
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sdar.errors import SdarError
from sdar.ranks.lifeline import lifeline

Value = TypeVar("Value")
PATIENCE = timedelta(hours=2)
"""How long a rank waits for one that lives: for the slowest part of a rollout, or for a
checkpoint to be written. A death is noticed at once (`lifeline`)."""
BUCKET = 1 << 25
"""Gradients per message: 128 MiB of float32."""


@dataclass(frozen=True)
class Ranks:
    """This process among the ranks of the job. Every method but `first` must be called by all."""

    rank: int = 0
    count: int = 1
    group: Any = None
    """The group of all ranks, on CPUs; None for a single process."""

    @classmethod
    def of(cls, accelerator: Any) -> "Ranks":
        """The ranks of an `Accelerator`. All call it. Raises `SdarError` where two have one GPU."""
        if accelerator.num_processes == 1:
            return cls()
        group = dist.new_group(backend="gloo", timeout=PATIENCE)
        ranks = cls(accelerator.process_index, accelerator.num_processes, group)
        if accelerator.device.type == "cuda":
            ranks._require_own_gpus(accelerator.device)
        return ranks

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes and shows."""
        return self.rank == 0

    def gather(self, value: Value) -> list[Value]:
        """Every rank's value (anything that can be pickled), in order of ranks."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with self._talking():
            dist.all_gather_object(values, value, group=self.group)
        return values

    def broadcast(self, value: Value) -> Value:
        """Rank 0's value."""
        return self.gather(value if self.first else None)[0]  # type: ignore[return-value]

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on any rank."""
        return any(self.gather(flag))

    def require_same(self, what: str, value: Any) -> None:
        """Raise `SdarError` on all ranks where one has another value: before passes that all make
        together, since a rank that waits for a pass that never comes would wait for hours."""
        values = self.gather(value)
        if any(each != values[0] for each in values):
            listed = ", ".join(f"rank {rank}: {each}" for rank, each in enumerate(values))
            raise SdarError(
                f"the ranks do not agree on {what} ({listed[:300]}): see that all "
                "machines have the same files, packages and configuration, and run the same "
                "command again to continue from the newest checkpoint"
            )

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks of a tensor on the CPU, in place."""
        if self.count > 1:
            with self._talking():
                dist.all_reduce(values, group=self.group)
        return values

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Give every rank the sum of all ranks' gradients; a rank without samples adds zeros."""
        if self.count == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            with self._talking():
                dist.all_reduce(flat)
            pieces = flat.split([gradient.numel() for gradient in bucket])
            for gradient, piece in zip(bucket, pieces, strict=True):
                gradient.copy_(piece.view_as(gradient))

    def _require_own_gpus(self, device: torch.device) -> None:
        """NCCL would refuse two ranks on one GPU, in words that name neither, or hang."""
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        first: dict[tuple[str, str], int] = {}
        for rank, gpu in enumerate(self.gather((socket.gethostname(), uuid))):
            if gpu in first:
                raise SdarError(
                    f"ranks {first[gpu]} and {rank} have the same GPU ({gpu[1]} of {gpu[0]}): "
                    "lower execution.processes to the number of GPUs of a machine, or ask for more "
                    "(cluster.train.gpus)"
                )
            first[gpu] = rank

    @contextmanager
    def entered_by_first(self, block: AbstractContextManager[Any]) -> Iterator[None]:
        """A block that rank 0 enters for all; where it cannot, all raise its `SdarError`."""
        with ExitStack() as entered:
            refused = None
            if self.first:
                try:
                    entered.enter_context(block)
                except SdarError as error:
                    refused = str(error)
            refused = self.broadcast(refused)
            if refused is not None:
                raise SdarError(refused)
            yield

    @contextmanager
    def watching(self) -> Iterator[None]:
        """A block that ends when another rank has died, by an error or with the process."""
        if self.count == 1:
            yield
            return
        with lifeline(self.rank, self.count, self.broadcast):
            yield

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise SdarError(
                f"rank {self.rank} lost touch with the other ranks ({reason}): one of them has "
                "ended or hangs, see its own message; run the same command again to continue from "
                "the newest checkpoint"
            ) from error


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive tensors of one type, at most `BUCKET` numbers together or a single tensor."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size + tensor.numel() > BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket
