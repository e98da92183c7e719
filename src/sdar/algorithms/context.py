"""What a distillation term needs of the whole training step, as small immutable values.

Everything here is a function of all response tokens of the step under the weights at its start, so
it does not depend on the order, the padding, the packing or the micro-batches of the update.
Statistics are taken in float64.

Legend: S samples, T tokens.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from sdar.algorithms.aggregation import response_tokens
from sdar.algorithms.gates import quantile
from sdar.errors import SdarError

RENEWAL = 0.1
"""Share of a step's own quantiles in the running ones (the other .9 stays)."""


@dataclass(frozen=True)
class GapQuantiles:
    """The gap's 10 %, 50 % and 90 % quantiles, in nats: where the gaps lie, and how far apart."""

    q10: float
    median: float
    q90: float

    @classmethod
    def of_step(cls, gap: Tensor, response_mask: Tensor) -> "GapQuantiles":
        """Of the gaps of all response tokens; any one shape.

        Raises:
            SdarError: there are none.
        """
        gap_N = gap.detach()[response_tokens(response_mask)].double().sort().values
        if gap_N.numel() == 0:
            raise SdarError("a training step has no response token: there are no gaps to look at")
        return cls(quantile(gap_N, 0.1), quantile(gap_N, 0.5), quantile(gap_N, 0.9))

    def followed_by(self, own: "GapQuantiles") -> "GapQuantiles":
        """The running quantiles after a step with quantiles `own`: .9 of these, .1 of its."""

        def renewed(kept: float, new: float) -> float:
            # Exactly `kept` where nothing changes, which .9 * kept + .1 * new is not.
            return kept + RENEWAL * (new - kept)

        return GapQuantiles(
            renewed(self.q10, own.q10), renewed(self.median, own.median), renewed(self.q90, own.q90)
        )

    @property
    def finite(self) -> bool:
        """Whether none is NaN or infinite, as one gap would make them for the rest of the run."""
        return all(map(math.isfinite, (self.q10, self.median, self.q90)))

    def scale(self, beta: float) -> float:
        """Half the distance between the outer two, at least 1 / beta (infinite at beta = 0)."""
        return max((self.q90 - self.q10) / 2, 1 / beta if beta > 0 else math.inf)

    def to_state(self) -> dict[str, float]:
        """For a checkpoint: JSON keeps a float64 as it is."""
        return {"q10": self.q10, "median": self.median, "q90": self.q90}

    @classmethod
    def from_state(cls, state: Mapping[str, float]) -> "GapQuantiles":
        return cls(state["q10"], state["median"], state["q90"])


@dataclass(frozen=True)
class StepContext:
    """A step's constants of the distillation weight keep * (gate - baseline); the defaults leave
    the gate as it is."""

    baseline: float = 0.0
    """Subtracted from every gate."""
    centre: float = 0.0
    """Where the adaptive gate begins to open, in nats."""
    scale: float = math.inf
    """How far above the centre it takes the adaptive gate to open (to tanh 1 = .76), in nats."""
    keep: Tensor | None = None
    """[S, T] booleans: tokens the term applies to. None: to all."""
    running: GapQuantiles | None = None
    """State of the run after this step, for the next one; None where the method keeps none."""
    coefficient_left: float = 1.0
    """The part of the distillation coefficient that the run's schedule leaves this step."""
    taught: Tensor | None = None
    """[S, T] booleans: response tokens that the teacher scored. None: all."""

    def of(self, part: Callable[[Tensor], Tensor]) -> "StepContext":
        """The context of a part of the step; `part` takes [S, T] of all samples to the part's."""
        keep, taught = (None if m is None else part(m) for m in (self.keep, self.taught))
        return self if keep is taught is None else replace(self, keep=keep, taught=taught)


NEUTRAL = StepContext()


def mean_over_step(values: Tensor, response_mask: Tensor) -> float:
    """Mean over all response tokens, in float64; 0 when there are none."""
    values_N = values.detach()[response_tokens(response_mask)].double()
    return float(values_N.mean()) if values_N.numel() else 0.0


def unopposed_tokens(advantages_ST: Tensor, valid_S: Tensor) -> Tensor:
    """[S, T] booleans: false where raising the sampled token opposes the reward.

    That is where the token's advantage is negative, and in turns whose action was invalid. An
    advantage of 0 is no preference, and opposes nothing.
    """
    valid_S = valid_S.to(advantages_ST.device) != 0
    return (advantages_ST.detach() >= 0) & valid_S[:, None]
