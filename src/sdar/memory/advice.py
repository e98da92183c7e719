"""Which keys to change, and to what, when a job would not fit."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sdar.config import ExperimentConfig, parse_config
from sdar.errors import SdarError

Peak = Callable[[ExperimentConfig], int]
GPUS = (2, 4, 8)
"""Sizes of one machine."""
USUAL_MICRO_BATCH = 4
USUAL_ROWS = 16
"""Below these a GPU has too little to do at once: last resorts."""


@dataclass(frozen=True)
class KeyChange:
    """A key, its new value, and the job's peak in bytes with it."""

    key: str
    value: Any
    peak: int
    config: ExperimentConfig

    def __str__(self) -> str:
        value = "{}" if self.value == {} else str(self.value).lower()
        return f"{self.key} to {value}"


def key_changes(config: ExperimentConfig, peak: Peak, most: int) -> list[KeyChange]:
    """Keys to change, one after the other, until the peak is at most `most` bytes.

    Of those that may change during a run, each time the cheapest that suffices, else the one that
    helps most. Where all of them are not enough: with the fewest further GPUs that help, else with
    adapters. Empty where nothing is enough.
    """
    firsts: list[tuple[str, Any] | None] = [None, *_more_gpus(config), ("training.lora", {})]
    for first in firsts:
        start = [] if first is None else _apply(config, [first], peak)
        if first is not None and not start:
            continue
        for harsh in (False, True):
            further = _during_run(start[-1].config if start else config, peak, most, harsh)
            changes = [*start, *further]
            if changes and changes[-1].peak <= most:
                return changes
    return []


def _during_run(config: ExperimentConfig, peak: Peak, most: int, harsh: bool) -> list[KeyChange]:
    chosen: dict[str, Any] = {}
    changed, height = config, peak(config)
    while height > most:
        tried = [
            change
            for candidate in candidates(changed, harsh)
            for change in _apply(changed, [candidate], peak)
            if change.peak < height
        ]
        if not tried:
            break
        enough = [change for change in tried if change.peak <= most]
        best = enough[0] if enough else min(tried, key=lambda change: change.peak)
        chosen[best.key] = best.value
        changed, height = best.config, best.peak
    return _apply(config, chosen.items(), peak)


def candidates(config: ExperimentConfig, harsh: bool) -> Iterator[tuple[str, Any]]:
    """Changes with which a run in progress continues; cheapest first."""
    training, rollout = config.training, config.rollout
    if rollout.engine == "transformers":
        for rows in _halves(rollout.batch, 1 if harsh else USUAL_ROWS):
            yield "rollout.batch", rows
    elif not rollout.vllm.servers:
        if not rollout.vllm.sleep:
            yield "rollout.vllm.sleep", True
        for share in (0.6, 0.5, 0.4, 0.3, 0.2):
            if share < rollout.vllm.gpu_memory_share:
                yield "rollout.vllm.gpu_memory_share", share
    for samples in _halves(training.micro_batch, 1 if harsh else USUAL_MICRO_BATCH):
        yield "training.micro_batch", samples
    if training.reference == "device":
        yield "training.reference", "host"
    if not training.activation_checkpointing:
        yield "training.activation_checkpointing", True


def _more_gpus(config: ExperimentConfig) -> list[tuple[str, Any]]:
    if config.execution.nodes > 1:
        return [("execution.nodes", config.execution.nodes * factor) for factor in (2, 4)]
    return [("execution.processes", count) for count in GPUS if count > config.execution.processes]


def _halves(count: int, least: int) -> Iterator[int]:
    while count // 2 >= least:
        count //= 2
        yield count


def _apply(
    config: ExperimentConfig, changes: Iterable[tuple[str, Any]], peak: Peak
) -> list[KeyChange]:
    """The changes one after the other; none where one of them is not allowed."""
    applied: list[KeyChange] = []
    for key, value in changes:
        values = config.model_dump(mode="json")
        *sections, last = key.split(".")
        place = values
        for section in sections:
            place = place[section]
        place[last] = value
        try:
            config = parse_config(values)
        except SdarError:
            return []
        applied.append(KeyChange(key, value, peak(config), config))
    return applied
