"""Progress of long work: a bar in a terminal, a line every few seconds in a log.

Jobs of a pipeline write to files and pipes, where a bar that redraws itself is noise; there the
same text (what, how far, how long still) is a line of its own, at most one per `EVERY` seconds.
"""

import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from tqdm import tqdm

EVERY = 10.0
"""Seconds between two lines of a log."""


class Progress(tqdm):
    """tqdm; outside a terminal it prints whole lines."""

    disable: bool

    def __init__(self, iterable: Iterable[Any] | None = None, **options: Any) -> None:
        self._lines = not sys.stderr.isatty()
        self._last_line = float("-inf")
        self._shown: float | None = None
        if self._lines:
            options |= {"mininterval": EVERY, "maxinterval": EVERY, "miniters": 1, "ascii": True}
            options["bar_format"] = (
                "{desc}: {n_fmt}/{total_fmt} {unit}s, {elapsed} so far, {remaining} left{postfix}"
            )
        else:
            options.setdefault("dynamic_ncols", True)
        options.setdefault("smoothing", 0.05)
        super().__init__(iterable, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        if not self._lines:
            return super().display(msg, pos)
        now = time.monotonic()
        news = self._finished() and self.n != self._shown
        if self.n and (news or now - self._last_line >= EVERY):
            self._last_line, self._shown = now, self.n
            print(msg or str(self), file=sys.stderr, flush=True)
        return True

    def close(self) -> None:
        if self._lines:
            if not self.disable and self._finished() and self.n != self._shown:
                # Whatever ends within EVERY of a line has not been shown as finished yet.
                self.display()
            self.disable = True
            type(self)._instances.discard(self)
            return
        super().close()

    def _finished(self) -> bool:
        return self.total is not None and self.n >= self.total

    def set_postfix(
        self,
        ordered_dict: Mapping[str, Any] | None = None,
        refresh: bool | None = None,
        **values: Any,
    ) -> None:
        """As tqdm's; in a log it waits for the next line."""
        super().set_postfix(ordered_dict, refresh=False if self._lines else refresh, **values)
