"""How much a step is taught: the schedule of the distillation term. Pure, and without tensors.

A schedule gives each step the part of the run's coefficient that is left. Where nothing is left,
nothing asks the teacher. `retire` goes by what the run has measured, so it has a state.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdar.methods.declarations import LinearSchedule


@dataclass(frozen=True)
class Retirement:
    """What `retire` keeps from step to step."""

    recent: tuple[float, ...] = ()
    """Mean |gap| of the newest steps that had one, in nats, the newest last."""
    retired: bool = False
    """The gap has closed; it stays so."""

    def to_state(self) -> dict[str, Any]:
        """For a checkpoint: JSON keeps a float64 as it is."""
        return {"recent": list(self.recent), "retired": self.retired}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Retirement":
        return cls(tuple(state["recent"]), state["retired"])


NOT_RETIRED = Retirement()


@dataclass(frozen=True)
class TeachingSchedule:
    """The run's choice (configuration: `training.distillation`)."""

    kind: str = "constant"
    """`constant`, `linear` or `retire`."""
    steps: int = 1
    """Of `linear`: the first step without the term."""
    below: float = 0.0
    """Of `retire`: the mean |gap| below which it ends, in nats."""
    over: int = 1
    """Of `retire`: the steps over which that mean is taken."""

    def left(self, step: int, retirement: Retirement) -> float:
        """The part of the coefficient that step `step` (from 0) has: 1 at first, never below 0."""
        if self.kind == "linear":
            return LinearSchedule(1.0, 0.0, self.steps)(step)
        return 0.0 if self.kind == "retire" and retirement.retired else 1.0

    def after(self, retirement: Retirement, gap_size: float | None) -> Retirement:
        """The state after a step with mean |gap| `gap_size`; None where nothing was taught."""
        # One number that is none would hold the mean, and so the term, for the rest of the run.
        if self.kind != "retire" or gap_size is None or not math.isfinite(gap_size):
            return retirement
        recent = (*retirement.recent, gap_size)[-self.over :]
        closed = len(recent) == self.over and math.fsum(recent) / self.over < self.below
        return Retirement(recent, retirement.retired or closed)
