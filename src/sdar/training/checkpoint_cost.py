"""Do checkpoints take too much of a run's time? Measured, and said once."""

import logging
from dataclasses import dataclass

log = logging.getLogger("sdar.training")
MOST = 0.1
"""Share of a run's time."""
SECONDS = 5.0
"""Shorter ones are not worth a word."""


@dataclass
class CheckpointCost:
    """`every`: steps from one checkpoint to the next."""

    every: int
    _said: bool = False

    def step(self, seconds: float, checkpoint: float) -> None:
        """After a step that took `seconds`, `checkpoint` of them for its checkpoint; 0: it had
        none."""
        computing = self.every * (seconds - checkpoint)
        if self._said or checkpoint < SECONDS or checkpoint <= MOST * (computing + checkpoint):
            return
        self._said = True
        enough = -(-checkpoint * (1 - MOST) / MOST // max(seconds - checkpoint, 1e-9))
        log.warning(
            "a checkpoint took %.0f s, %.0f%% of the time of the %d steps it is for: "
            "training.checkpoint_every %d would make it %.0f%%; so would a faster disk",
            checkpoint,
            100 * checkpoint / (computing + checkpoint),
            self.every,
            enough,
            100 * MOST,
        )
