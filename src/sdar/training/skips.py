"""Optimizer steps that are not taken, because a number they would be made from is not finite.

A loss, a gradient, a log-prob or a reward that is NaN or infinite would make all weights NaN for
good. Such a step is skipped and counted, weights and optimizer stay as they are, and the run goes
on. Several in a row are no accident any more: the run ends, and the last batch is kept to look at.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from sdar.errors import SdarError
from sdar.files.whole import write_parquet
from sdar.policy.weights import whole

log = logging.getLogger("sdar.training")


@dataclass
class Skips:
    """What a run remembers of its skipped steps. All ranks hold the same; one of them writes."""

    limit: int
    """So many in a row end the run."""
    folder: Path | None
    """The run's; None: no batch is kept."""
    writes: bool = True
    in_a_row: int = 0
    unreported: int = 0

    def skip(self, name: str, wrong: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count the step `name`, in which `wrong` is not finite; `rows` are its samples, made when
        they are asked for.

        Raises `SdarError` when it is one too many.
        """
        self.in_a_row += 1
        self.unreported += 1
        if self.writes:
            log.warning("%s: %s is not finite; the optimizer step is skipped", name, wrong)
        if self.in_a_row < self.limit:
            return
        kept = ""
        if self.folder is not None:
            path = self.folder / "skipped" / f"{name.replace(', ', '-').replace(' ', '-')}.parquet"
            if self.writes:
                write_parquet(path, pa.Table.from_pylist(list(rows)))
            kept = f"; its samples are in {path}"
        raise SdarError(
            f"{name}: {wrong} is not finite, and this is optimizer step {self.in_a_row} in a row "
            f"that had to be skipped (training.skipped_in_a_row){kept}; nothing of them was "
            "applied, and the checkpoints are finite: lower the learning rate, or find where the "
            "value comes from, then run again"
        )

    def taken(self) -> None:
        """A step was taken: the row is over."""
        self.in_a_row = 0

    def report(self) -> float:
        """How many were skipped since the last report: `update/skipped` of metrics.jsonl."""
        count, self.unreported = self.unreported, 0
        return float(count)

    def state(self) -> dict[str, int]:
        """For the checkpoint."""
        return {"in_a_row": self.in_a_row, "unreported": self.unreported}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave; a checkpoint of an earlier version has nothing."""
        saved = state.get("skips", {})
        self.in_a_row = saved.get("in_a_row", 0)
        self.unreported = saved.get("unreported", 0)


def first_not_finite(values: Mapping[str, Tensor | float | None]) -> str | None:
    """The name of the first value with an element that is NaN or infinite, or None."""
    for name, value in values.items():
        finite = (
            bool(torch.isfinite(value).all())
            if isinstance(value, Tensor)
            else value is None or math.isfinite(value)
        )
        if not finite:
            return name
    return None


def take_step(optimizer: Any, parameters: Iterable[Tensor], name: str, key: str) -> None:
    """Let the optimizer take the step `name`, from gradients that are finite.

    Raises `SdarError` where that leaves weights that are not, before anything is computed with them
    or saved; `key` is the learning rate's. Where weights are sharded all ranks call together.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    try:
        optimizer.step()
        finite = math.isfinite(float(whole(torch.nn.utils.get_total_norm(trained))))
    except RuntimeError as error:
        if "overflow" not in str(error):  # PyTorch's word for a number beyond the weights' type
            raise
        finite = False
    if not finite:
        raise SdarError(
            f"{name}: the weights are not finite after the optimizer step; they are not saved, and "
            f"the checkpoints are finite: lower {key}, then run again"
        )
