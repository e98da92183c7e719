"""Which pieces of a training step are compared with which, and the processes that compute them.

A contender is a configuration of `sdar train`: a method, keys that differ from the experiment's,
and which source computes it. Each has a process of its own (step_server.py), so that a switch that
is read when a policy is loaded, another commit and another trainer are compared alike.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from passes_ratios import Measured, alternate, ratio
from passes_world import World
from pydantic import BaseModel
from step_protocol import READY, ServerError, StepServer, Timing, python_with

from sdar.config import ExperimentConfig

BENCHMARKS = Path(__file__).resolve().parent
SHARE, OLD, TAUGHT = (
    "policy.share_prefixes",
    "training.old_log_probs",
    "training.distillation.share",
)
"""Keys of the configuration that a contender may need."""
SKILL_TIMES = 4
PATIENCE = 1200.0
"""Seconds that a process may say nothing."""


@dataclass(frozen=True)
class Contender:
    """Whose steps are timed. `before`: by the source of the commit that is compared with."""

    name: str
    method: str
    changes: tuple[tuple[str, Any], ...] = ()
    before: bool = False
    trl: bool = False
    skill_times: int | None = None


GRPO, SDAR = Contender("grpo", "grpo"), Contender("sdar", "sdar")
QUARTER = Contender("sdar, a quarter taught", "sdar", ((TAUGHT, 0.25),))
SHARED = Contender("shared prefixes", "sdar", ((SHARE, True), (OLD, "pass")))
PLAIN = Contender("no shared prefixes", "sdar", ((SHARE, False), (OLD, "pass")))
LONG_SKILL = Contender(
    "long skill", "sdar", ((SHARE, True), (OLD, "pass")), skill_times=SKILL_TIMES
)
GRPO_BEFORE = Contender("grpo before", "grpo", before=True)
SDAR_BEFORE = Contender("sdar before", "sdar", before=True)
TRL = Contender("TRL", "grpo", trl=True)


@dataclass(frozen=True)
class Pair:
    """First over second: each a contender and the word it is asked for. `per`: what of its answer
    the seconds are divided by."""

    first: tuple[Contender, str]
    second: tuple[Contender, str]
    per: str | None = None
    contenders: frozenset[Contender] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "contenders", frozenset({self.first[0], self.second[0]}))


PAIRS = {
    "sdar_step_over_grpo_step": Pair((SDAR, "step"), (GRPO, "step")),
    "sdar_step_over_grpo_step_share_25": Pair((QUARTER, "step"), (GRPO, "step")),
    "grpo_step_over_before": Pair((GRPO, "step"), (GRPO_BEFORE, "step")),
    "sdar_step_over_before": Pair((SDAR, "step"), (SDAR_BEFORE, "step")),
    "grpo_step_over_trl": Pair((GRPO, "step"), (TRL, "step"), per="tokens"),
    # So many times as fast: the seconds of `generate` over ours.
    "rollout_over_generate": Pair((GRPO, "generate"), (GRPO, "rollout")),
    "shared_over_plain_update": Pair((SHARED, "update"), (PLAIN, "update")),
    "shared_over_plain_teacher": Pair((SHARED, "teacher"), (PLAIN, "teacher")),
    "teacher_over_old_log_probs": Pair((LONG_SKILL, "teacher"), (LONG_SKILL, "old")),
}


def missing_key(contender: Contender, model: type[BaseModel] = ExperimentConfig) -> str | None:
    """A key that the contender needs and the configuration does not have."""
    for key, _ in contender.changes:
        section: Any = model
        for part in key.split("."):
            fields = getattr(section, "model_fields", {})
            if part not in fields:
                return key
            section = fields[part].annotation
    return None


def with_changes(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's values with others at dotted keys."""
    changed = json.loads(json.dumps(values))
    for key, value in changes.items():
        *sections, last = key.split(".")
        inner = changed
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return changed


class Servers:
    """The contenders' processes, started when they are asked for the first time."""

    def __init__(self, world: World, stack: ExitStack) -> None:
        self.world = world
        self.stack = stack
        self.open: dict[Contender, StepServer] = {}
        self.work: dict[str, Any] = {}
        """What each contender's step is."""

    def of(self, contender: Contender) -> StepServer:
        if contender not in self.open:
            start = self._start_trl if contender.trl else self._start
            server = start(contender)
            self.stack.callback(server.close)
            self.open[contender] = server
            self.work[contender.name] = server.ask(READY)
        return self.open[contender]

    def close_all_but(self, kept: set[Contender]) -> None:
        """End those that nothing asks any more."""
        for contender in set(self.open) - kept:
            self.open.pop(contender).close()

    def _start(self, contender: Contender) -> StepServer:
        world, changes = self.world, dict(contender.changes)
        if contender.skill_times is not None:
            policy = world.config.policy
            longest = (1 + contender.skill_times) * policy.max_prompt_tokens
            if world.config.context is not None:
                longest = min(longest, world.config.context - policy.max_response_tokens)
            changes["policy.max_teacher_prompt_tokens"] = longest
        given = {
            "values": with_changes(world.values, changes),
            "root": str(world.root_before if contender.before else world.root),
            "method": contender.method,
            "seed": 0,
            "step": world.step,
            "skill_times": contender.skill_times,
        }
        source = world.source_before if contender.before else None
        command = [sys.executable, str(BENCHMARKS / "step_server.py"), json.dumps(given)]
        return StepServer(contender.name, command, python_with(source), PATIENCE)

    def _start_trl(self, contender: Contender) -> StepServer:
        """On prompts of our own step, so many that the samples are about as many."""
        world, training = self.world, self.world.config.training
        prompts = self.of(GRPO).ask("prompts")["prompts"]
        work = trl_work(len(prompts), training.minibatch, training.micro_batch, training.group_size)
        given = {
            "policy": str(world.policy),
            "prompts": [prompts[i * len(prompts) // work.prompts] for i in range(work.prompts)],
            "repeats": training.group_size,
            "optimizer_steps": work.optimizer_steps,
            "micro_batch": work.micro_batch,
            "accumulate": work.accumulate,
            "response": world.config.policy.max_response_tokens,
            "kl": training.kl_coefficient,
            "learning_rate": training.learning_rate,
            "threads": world.config.execution.threads,
        }
        # A long list: by a file of the world, not by the command line.
        path = world.folder / "trl.json"
        path.write_text(json.dumps(given), encoding="utf-8")
        command = [str(world.trl_python()), str(BENCHMARKS / "trl_server.py"), f"@{path}"]
        return StepServer(contender.name, command, python_with(None), PATIENCE)


@dataclass(frozen=True)
class TrlWork:
    """How TRL's trainer makes a step: of `prompts` x group samples, as many optimizer steps."""

    prompts: int
    optimizer_steps: int
    micro_batch: int
    accumulate: int


def trl_work(samples: int, minibatch: int, micro_batch: int, group: int) -> TrlWork:
    """TRL takes whole micro-batches, of which a step has a multiple, and whole groups: the number
    of samples that comes nearest. Ours are cut as they come."""
    steps = -(-samples // minibatch)
    micro = max(group, micro_batch - micro_batch % group)
    accumulate = max(1, round(samples / (steps * micro)))
    return TrlWork(steps * micro * accumulate // group, steps, micro, accumulate)


@contextmanager
def servers(world: World) -> Iterator[Servers]:
    """All end with the block."""
    with ExitStack() as stack:
        yield Servers(world, stack)


def measure_pair(name: str, running: Servers, rounds: int) -> Measured:
    """The ratio of a pair, or why there is none."""
    pair = PAIRS[name]
    for contender in pair.contenders:
        if key := missing_key(contender):
            return Measured(None, reason=f"the configuration has no key {key}")
    for contender in pair.contenders:
        if reason := running.world.lacks(before=contender.before, trl=contender.trl):
            return Measured(None, reason=reason)

    def ask(asked: tuple[Contender, str]) -> Callable[[], Timing]:
        server = running.of(asked[0])
        return lambda: server.time(asked[1], pair.per)

    try:
        return ratio(alternate(ask(pair.first), ask(pair.second), rounds))
    except ServerError as error:
        return Measured(None, reason=str(error))
