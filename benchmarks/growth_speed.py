"""How the cost of a step's passes grows with group size, turns, skill and response.

    sdar bench growth [--json FILE] [--figure FILE.svg]

A step of made-up work (step_world.py) with a random tiny policy is played once for each point; then
the pass of old log-probs, the teacher's and the update are timed with its arguments, with and
without shared prefixes in turn (passes_ratios.alternate). All but one of the sizes stay at the
base's. Writes JSON, and draws processor seconds against each size. Observations are made up for
each episode and turn: less is shared than in games, whose rooms stay the same.
"""

import argparse
import inspect
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from machine import machine, recorded
from passes_arithmetic import random_model
from passes_ratios import alternate, spread
from passes_speed import commit
from passes_steps import OLD, PLAIN, SHARE, missing_key, with_changes
from step_protocol import Timing, stopwatch
from step_server import StartOfStep, record_parts
from step_speed import SHAPES, SLACK, configuration
from step_world import Skills, World, lengths, make_tokenizer, tasks
from transformers.utils.logging import disable_progress_bar

from sdar.config import parse_config
from sdar.policy.loading import load_policy
from sdar.policy.reproducible import make_reproducible
from sdar.report.style import new_figure, save
from sdar.training.learner import Learner
from sdar.training.parts import Parts, make_accelerator, trained_method

BASE = {"group": 8, "turns": 3, "skill": 120, "response": 16}
AXES: dict[str, Sequence[int]] = {
    "group": (2, 4, 8, 16, 32),
    "turns": (1, 2, 4, 8),
    "skill": (30, 60, 120, 240, 480),
    "response": (4, 8, 16, 32, 64),
}
SMALL: dict[str, Sequence[int]] = {"group": (2, 3), "skill": (30, 60)}
TITLES = {
    "group": "episodes of a group",
    "turns": "turns of an episode",
    "skill": "tokens of the skill",
    "response": "tokens of a response",
}
PASSES = {"old": "#4c78a8", "teacher": "#e45756", "update": "#54a24b"}
"""Passes and their colours."""
PROMPT, TASKS, SHAPE = 160, 2, "tiny"


class Point:
    """A step of these sizes, with and without shared prefixes."""

    def __init__(
        self, sizes: Mapping[str, int], share: bool | None, folder: Path, tokenizer: Any
    ) -> None:
        seen, told = lengths(tokenizer, PROMPT, sizes["skill"])
        options = argparse.Namespace(
            tasks=TASKS,
            steps=1,
            minibatch=256,
            micro_batch=64,
            activation_checkpointing=False,
            no_static_decode=False,
            threads=1,
            **{name: sizes[name] for name in ("group", "turns", "response")},
        )
        prompt = PROMPT + SLACK
        config = configuration(options, prompt, prompt + sizes["skill"] + SLACK)
        if share is not None:
            changed = with_changes(config.model_dump(mode="json"), {SHARE: share, OLD: "pass"})
            config = parse_config(changed)
        parts = Parts(
            _policy(folder, share),
            tokenizer,
            World(options.turns, seen),
            tasks(4 * TASKS),
            Skills(told),
            {},
        )
        accelerator = make_accelerator(config)
        self.learner: Any = Learner.prepare(parts, config, trained_method("sdar"), 0, accelerator)
        self.learner.engine.ends = frozenset()
        self.start = StartOfStep(self.learner)
        self.done, self.arguments = record_parts(self.learner, 0)

    def time(self, word: str) -> Timing:
        method = self.learner.update if word == "update" else getattr(self.learner, f"score_{word}")
        self.start.restore()
        clocks = stopwatch(1)
        before = clocks()
        method(*self.arguments[word])
        after = clocks()
        return Timing(after[0] - before[0], after[1] - before[1])


def save_policy(folder: Path, tokenizer: Any) -> None:
    """A random policy in files: the switch is read where one is loaded."""
    values = SHAPES[SHAPE] | {"vocab_size": len(tokenizer), "eos_token_id": 0}
    random_model(values, context=1 << 15).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _policy(folder: Path, share: bool | None) -> Any:
    known = inspect.signature(load_policy).parameters
    switch = {} if share is None or "share_prefixes" not in known else {"share_prefixes": share}
    return load_policy(folder, "cpu", torch.float32, **switch)[0]


def measure_point(
    sizes: Mapping[str, int], folder: Path, tokenizer: Any, rounds: int
) -> dict[str, Any]:
    """Seconds of each pass, plain and shared; shared is null where the switch is missing."""
    switch = missing_key(PLAIN) is None
    plain = Point(sizes, False if switch else None, folder, tokenizer)
    shared = Point(sizes, True, folder, tokenizer) if switch else None
    seconds: dict[str, Any] = {}
    for word in PASSES:
        other = plain if shared is None else shared
        pairs = alternate(lambda: plain.time(word), lambda: other.time(word), rounds)  # noqa: B023
        seconds[word] = {
            "plain": _spreads([pair[0] for pair in pairs]),
            "shared": None if shared is None else _spreads([pair[1] for pair in pairs]),
        }
    batch = plain.done.batch
    for point in filter(None, (plain, shared)):
        point.learner.close()
    return {**sizes, "samples": len(batch), "tokens": sum(batch.lengths()), "seconds": seconds}


def _spreads(timings: Sequence[Timing]) -> dict[str, dict[str, float]]:
    return {kind: spread([getattr(each, kind) for each in timings]) for kind in ("wall", "cpu")}


def draw(curves: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> list[Path]:
    """Processor seconds of each pass: solid with shared prefixes, dashed without."""
    figure, axes = new_figure(1, len(curves), (4.2 * len(curves), 4.0))
    for axis, (name, points) in zip(axes, curves.items(), strict=True):
        for word, colour in PASSES.items():
            for way, line in (("plain", "--"), ("shared", "-")):
                known = [point for point in points if point["seconds"][word][way]]
                if known:
                    axis.plot(
                        [point[name] for point in known],
                        [point["seconds"][word][way]["cpu"]["median"] for point in known],
                        line,
                        color=colour,
                        marker="o",
                        markersize=4,
                        label=f"{word}, {way}",
                    )
        axis.set(title=TITLES[name].capitalize(), xlabel=TITLES[name], ylabel="processor seconds")
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
    axes[0].legend(loc="upper left")
    return save(figure, path.with_suffix(""))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, help="default: 5; with --small, 1")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/growth-MACHINE.json")
    parser.add_argument("--figure", type=Path, help="default: beside it, .svg and .png")
    parser.add_argument("--small", action="store_true", help="two points on two axes, for a test")
    options = parser.parse_args()
    if options.small and options.json is None:
        parser.error("--small needs --json FILE: its numbers are not kept among the results")
    rounds = options.rounds or (1 if options.small else 5)
    make_reproducible(1)
    tokenizer = make_tokenizer(SHAPES[SHAPE]["vocab_size"])
    disable_progress_bar()
    curves: dict[str, list[dict[str, Any]]] = {}
    print(f"{'':<14}{'tokens':>9}" + "".join(f"{word:>18}" for word in PASSES))
    with tempfile.TemporaryDirectory() as folder:
        save_policy(Path(folder), tokenizer)
        for name, values in (SMALL if options.small else AXES).items():
            curves[name] = []
            for value in values:
                point = measure_point(BASE | {name: value}, Path(folder), tokenizer, rounds)
                curves[name].append(point)
                shown = "".join(f"{_shown(point['seconds'][word]):>18}" for word in PASSES)
                print(f"{name:<9}{value:>5}{point['tokens']:>9}{shown}", flush=True)
    path = options.json or recorded("growth")
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "bench": "growth",
        "machine": machine(),
        "command": "sdar bench growth" + (" --small" if options.small else ""),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "load_average": round(os.getloadavg()[0], 1),
        "rounds": rounds,
        "work": {"shape": SHAPE, "tasks": TASKS, "prompt": PROMPT, **BASE},
        "curves": curves,
    }
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    written = draw(curves, options.figure or path.with_suffix(".svg"))
    print(f"written: {path}, {', '.join(map(str, written))}")


def _shown(seconds: Mapping[str, Any]) -> str:
    ways = [seconds[way]["cpu"]["median"] for way in ("plain", "shared") if seconds[way]]
    return " / ".join(f"{value:.3f}" for value in ways)


if __name__ == "__main__":
    main()
