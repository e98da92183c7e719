"""Ratios of pieces of work that are timed in turn, and whether new ones are worse than old ones.

On a machine that others use, seconds of today say nothing about seconds of tomorrow; the ratio of
two pieces of work done one after the other does. So each round times all of them, the next round in
the reverse order, and a ratio is taken within a round.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from step_protocol import Timing

TOLERANCE = 0.1
"""Of a ratio's median, where nothing else is said."""


@dataclass(frozen=True)
class Measured:
    """A quantity by the wall's clock and the processor's; or why there is none."""

    wall: dict[str, float] | None
    cpu: dict[str, float] | None = None
    reason: str | None = None
    details: Mapping[str, Any] | None = None


def alternate(
    first: Callable[[], Timing], second: Callable[[], Timing], rounds: int
) -> list[tuple[Timing, Timing]]:
    """Timings of both, round by round, after one of each that does not count."""
    first(), second()
    pairs = []
    for number in range(rounds):
        if number % 2 == 0:
            one, other = first(), second()
        else:
            other, one = second(), first()
        pairs.append((one, other))
    return pairs


def spread(values: Sequence[float]) -> dict[str, float]:
    """Least, middle and greatest."""
    return {
        "min": round(min(values), 4),
        "median": round(statistics.median(values), 4),
        "max": round(max(values), 4),
    }


def ratio(pairs: Sequence[tuple[Timing, Timing]]) -> Measured:
    """First over second, each for a unit of its work; the middle of the seconds as details."""

    def of(kind: Literal["wall", "cpu"]) -> dict[str, float]:
        each = [
            (getattr(one, kind) / one.work) / (getattr(other, kind) / other.work)
            for one, other in pairs
        ]
        return spread(each)

    seconds = {
        f"{name}_seconds": {
            kind: round(statistics.median(getattr(pair[place], kind) for pair in pairs), 4)
            for kind in ("wall", "cpu")
        }
        for place, name in enumerate(("first", "second"))
    }
    work = {"first_work": pairs[-1][0].work, "second_work": pairs[-1][1].work}
    known = all(timing.cpu > 0 for pair in pairs for timing in pair)
    return Measured(of("wall"), of("cpu") if known else None, details={**seconds, **work})


@dataclass(frozen=True)
class Verdict:
    """What became of a ratio that was stored."""

    name: str
    stored: float
    new: float | None
    worse: bool
    sentence: str


def compare(stored: Mapping[str, Any], new: Mapping[str, Any]) -> list[Verdict]:
    """A verdict for every ratio that was stored with a value. `check` of the stored file says which
    direction is better, and what share of the stored median a change for the worse may be; a ratio
    that the new run lacks is no worse, and said. By the processor's clock where both have it: it is
    what other processes disturb least."""
    verdicts = []
    for name in stored["ratios"]:
        old = _median(stored, new, name)
        if old is None:
            continue
        was, now, clock = old
        rule = stored.get("check", {}).get(name, {})
        tolerance = rule.get("tolerance", TOLERANCE)
        lower = rule.get("better", "lower") == "lower"
        if now is None:
            reason = (new.get("reasons") or {}).get(name, "the new run does not have it")
            verdicts.append(Verdict(name, was, None, False, f"{name}: not compared: {reason}"))
            continue
        change = (now - was) / was if lower else (was - now) / was
        worse = change > tolerance
        word = "WORSE" if worse else "better" if change < -tolerance else "as before"
        sentence = f"{name}: {word}: {was:g} -> {now:g} ({clock} time, tolerance {tolerance:.0%})"
        verdicts.append(Verdict(name, was, now, worse, sentence))
    return verdicts


def _median(
    stored: Mapping[str, Any], new: Mapping[str, Any], name: str
) -> tuple[float, float | None, str] | None:
    """Stored and new median by one clock, and which; None where none is stored."""
    for kind, clock in (("cpu_ratios", "processor"), ("ratios", "wall")):
        old, now = (file.get(kind, {}).get(name) for file in (stored, new))
        if old is not None and (now is not None or kind == "ratios"):
            return old["median"], None if now is None else now["median"], clock
    return None
