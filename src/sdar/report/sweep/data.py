"""The numbers of a compared sweep: what table and heat map show."""

from dataclasses import asdict, dataclass
from typing import Any

from sdar.config.variants import Cell, SweepVariant
from sdar.evaluation.statistics import Difference, Rate
from sdar.report.comparison import CONFIDENCE, RESAMPLES


@dataclass(frozen=True)
class SweepResult:
    """One variant: its rate, and its difference to the baseline (None for the baseline)."""

    variant: SweepVariant
    rate: Rate
    difference: Difference | None
    teacher_tokens: float | None = None
    """That the teacher read in a run, prompts and responses, the mean over seeds; None where the
    runs did not count them."""

    @property
    def decided(self) -> bool:
        """The interval of the difference excludes 0."""
        one = self.difference
        return one is not None and (one.low > 0 or one.high < 0)


@dataclass(frozen=True)
class SweepComparison:
    """Everything that table and heat map show."""

    experiment: str
    panels: tuple[str, ...]
    seeds: tuple[int, ...]
    evaluation_seeds: tuple[int, ...]
    steps: int
    cells: dict[Cell, SweepVariant]
    results: dict[str, SweepResult]
    """By the variant's name, the baseline first."""

    @property
    def base(self) -> SweepResult:
        return next(iter(self.results.values()))

    def at(self, cell: Cell) -> SweepResult:
        return self.results[self.cells[cell].name]

    @property
    def by_effect(self) -> list[SweepResult]:
        """All but the baseline, the largest difference first, equals by name."""
        rest = [one for one in self.results.values() if one.difference is not None]
        return sorted(rest, key=lambda one: (-difference_of(one).difference, one.variant.name))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for sweep.json."""
        return {
            "experiment": self.experiment,
            "panels": list(self.panels),
            "seeds": list(self.seeds),
            "evaluation_seeds": list(self.evaluation_seeds),
            "steps": self.steps,
            "baseline": self.base.variant.name,
            "variants": [
                {
                    "name": one.variant.name,
                    "method": one.variant.method,
                    "rate": asdict(one.rate),
                    "difference": one.difference and asdict(one.difference),
                    "interval_excludes_0": one.decided,
                    "teacher_tokens": one.teacher_tokens,
                }
                for one in self.results.values()
            ],
            "cells": [
                cell._asdict() | {"variant": variant.name} for cell, variant in self.cells.items()
            ],
            "statistics": {
                "confidence": CONFIDENCE,
                "resamples": RESAMPLES,
                "difference": "paired bootstrap over tasks and runs, against the baseline",
            },
        }


def setting(comparison: SweepComparison) -> str:
    """`140 tasks of valid_seen x 2 run seeds`."""
    rate, seeds, plays = comparison.base.rate, len(comparison.seeds), comparison.evaluation_seeds
    text = f"{rate.tasks} tasks of {' + '.join(comparison.panels)} x {seeds} run seed"
    text += "s" if seeds > 1 else ""
    return text + (f" x {len(plays)} evaluation seeds" if len(plays) > 1 else "")


def difference_of(result: SweepResult) -> Difference:
    """Of a variant that is not the baseline."""
    assert result.difference is not None
    return result.difference
