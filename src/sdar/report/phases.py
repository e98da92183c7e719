"""The phases of a training step: their order, names and colours."""

from collections.abc import Iterable

PHASE_COLOURS = {
    "rollout": "#0072B2",
    "generation": "#0072B2",
    "environment": "#7FB8DA",
    "old": "#B3A2D6",
    "teacher": "#D55E00",
    "reference": "#009E73",
    "update": "#E69F00",
    "records": "#8C8C8C",
    "checkpoint": "#5A5A5A",
    "other": "#CFCFCF",
}
_PHASE_NAMES = {
    "old": "old log-probs",
    "teacher": "teacher log-probs",
    "reference": "reference log-probs",
}
_SPARE_COLOURS = ("#CC79A7", "#8C6D31", "#3B4BA3", "#2F7F7A", "#767676", "#A32A2A")


def order_phases(phases: Iterable[str]) -> list[str]:
    """Phases in the order of work in a step, unknown ones before `other`."""
    known = list(PHASE_COLOURS)
    last = len(known) - 1
    return sorted(phases, key=lambda p: (known.index(p) if p in known else last - 0.5, p))


def phase_name(phase: str) -> str:
    """A phase as a person calls it."""
    return _PHASE_NAMES.get(phase, phase.replace("_", " "))


def phase_colours(phases: Iterable[str]) -> dict[str, str]:
    """A colour for each; unknown phases take spare ones in turn."""
    unknown = [phase for phase in order_phases(phases) if phase not in PHASE_COLOURS]
    spare = {name: _SPARE_COLOURS[i % len(_SPARE_COLOURS)] for i, name in enumerate(unknown)}
    return {phase: PHASE_COLOURS.get(phase) or spare[phase] for phase in order_phases(phases)}
