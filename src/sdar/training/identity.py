"""Which run a checkpoint belongs to, and what it was computed with.

A checkpoint is continued where nothing differs that decides the result (`config.stages`). What
changes only the rounding may differ, and limits of prompts may be raised: `provenance.json` lists
which steps were computed with what.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdar.config import ExperimentConfig
from sdar.config.stages import (
    DEVICE,
    PROMPT_LIMITS,
    Stage,
    changed,
    computed_with,
    content_digests,
    depends_on,
    differing,
    played_data,
)
from sdar.environments.base import Task
from sdar.errors import SdarError
from sdar.files.digest import json_digest
from sdar.methods.declarations import Method
from sdar.training.checkpoint import Checkpoint, latest_complete

log = logging.getLogger("sdar.training")
Span = dict[str, Any]
"""Keys of rounding and limits with their values, and under `from_step` the first step that had
them."""


@dataclass(frozen=True)
class RunIdentity:
    """What decides a run's result, in dotted keys, and how its sums are rounded."""

    depends_on: Mapping[str, Any]
    computed_with: Mapping[str, Any]
    """With what `DEVICE` really is, since `execution.device` may be auto."""

    @classmethod
    def of(
        cls,
        config: ExperimentConfig,
        stage: Stage,
        inputs: Mapping[str, str],
        device: str | None = None,
        **more: Any,
    ) -> "RunIdentity":
        """Of a stage with the data it reads. `inputs` holds digests of what is read, so that
        the names of files and folders do not count. `device` names the one computed on
        (`policy.gpu`); `more` are further decisive values."""
        decisive = depends_on(config, stage, content_digests(config))
        for named in ("environment.data", "skills.library"):
            decisive.pop(named, None)
        read = {f"inputs.{name}": digest for name, digest in inputs.items()}
        used = {} if device is None else {DEVICE: device}
        return cls(decisive | read | more, computed_with(config, stage) | used)

    @classmethod
    def of_training(
        cls,
        config: ExperimentConfig,
        method: Method,
        seed: int,
        inputs: Mapping[str, str],
        device: str | None = None,
    ) -> "RunIdentity":
        """Of a training run. Without a learning-rate warm-up, more steps only continue it."""
        identity = cls.of(config, "train", inputs, device, method=method.name, seed=seed)
        if config.training.warmup_ratio > 0:
            return identity
        shorter = {k: v for k, v in identity.depends_on.items() if k != "training.steps"}
        return cls(shorter, identity.computed_with)

    def find_start(
        self,
        folder: Path,
        steps: int,
        lacking: Callable[[Checkpoint], str | None] = lambda found: None,
    ) -> Checkpoint | None:
        """The newest checkpoint in `folder` that is this run's, at most `steps` far, or None.

        Warns, with the keys that differ, where one belongs to another run, and where this run
        continues with another rounding. `lacking` says what of a checkpoint's records is lost:
        then an earlier one is taken. Raises `SdarError` where each lacks something.
        """
        lost: list[str] = []

        def usable(found: Checkpoint) -> bool:
            if not self._is_mine(found, steps):
                return False
            what = lacking(found)
            if what is not None:
                log.warning("%s is not continued: %s", found.path, what)
                lost.append(what)
            return what is None

        checkpoint = latest_complete(folder, usable)
        if checkpoint is None and lost:
            raise SdarError(
                f"{lost[-1]}, and every checkpoint was made with it: restore it, or remove "
                f"{folder} to begin anew"
            )
        if checkpoint is None:
            return None
        before, now = self._last(checkpoint.state), self._span()
        if before is None or not differing(before, now):
            return checkpoint
        if checkpoint.step >= steps and _limits(before) != _limits(now):
            log.warning(
                "%s is the end of a run with lower limits: the run begins anew; %s",
                checkpoint.path,
                changed(before, now),
            )
            return None
        log.warning(
            "continues at %d with %s: from here on sums are rounded differently, or longer prompts "
            "are whole, and provenance.json says so",
            checkpoint.step,
            changed(before, now),
        )
        return checkpoint

    def state(self, spans: list[Span]) -> dict[str, Any]:
        """For the checkpoint: what `find_start` compares, and what was computed with which."""
        return {"depends_on": dict(self.depends_on), "computed_with": spans}

    def spans(self, checkpoint: Checkpoint | None) -> list[Span]:
        """What was computed with which so far, and from the checkpoint's step on."""
        if checkpoint is None:
            return [{"from_step": 0, **self._span()}]
        spans: list[Span] = list(checkpoint.state["computed_with"])
        if differing(self._last(checkpoint.state) or {}, self._span()):
            spans.append({"from_step": checkpoint.step, **self._span()})
        return spans

    def _span(self) -> Span:
        """What a step is computed with now."""
        return {**self.computed_with, **_limits(self.depends_on)}

    def _last(self, state: Mapping[str, Any]) -> Span | None:
        """The rounding of the newest span."""
        spans = state.get("computed_with")
        if not spans:
            return None
        last = {key: value for key, value in spans[-1].items() if key != "from_step"}
        # Earlier versions wrote no limits there, and no device.
        device = {DEVICE: self.computed_with[DEVICE]} if DEVICE in self.computed_with else {}
        return _limits(state["depends_on"]) | device | last

    def _is_mine(self, checkpoint: Checkpoint, steps: int) -> bool:
        before = checkpoint.state.get("depends_on")
        if before is None or not (checkpoint.path / "records" / "metrics.jsonl").is_file():
            log.warning("%s is of an earlier version of sdar: it is not continued", checkpoint.path)
            return False
        keys = differing(before, self.depends_on)
        lower, higher = _limits(before), _limits(self.depends_on)
        raised = [key for key in lower.keys() & higher.keys() if lower[key] < higher[key]]
        if set(keys) - set(raised):
            log.warning(
                "%s was made with other settings or data: it is not continued; %s",
                checkpoint.path,
                changed(before, self.depends_on),
            )
            return False
        return checkpoint.step <= steps


def task_inputs(config: ExperimentConfig, tasks: Sequence[Task]) -> dict[str, str]:
    """For `RunIdentity.of`: digests of the training tasks, and of the data they are played from."""
    return {
        "tasks": json_digest([task.digest for task in tasks])[:16],
        **played_data(config, ("train",)),
    }


def _limits(values: Mapping[str, Any]) -> dict[str, int]:
    """A run continues with higher ones: what was computed stays as it is."""
    return {key: values[key] for key in PROMPT_LIMITS if key in values}
