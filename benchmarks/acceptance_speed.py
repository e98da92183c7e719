"""Sections of the acceptance run about speed and memory on one GPU: speed, profile."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from acceptance_agree import DEEP, target
from acceptance_record import Record
from acceptance_world import QWEN3, Case, open_case
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiled

from sdar.clock import PhaseClock
from sdar.training.step_batch import StepBatch

HERE = Path(__file__).resolve().parent
SMALL_WORK = "--tasks 1 --group 2 --turns 2 --prompt 120 --skill 40 --response 8 --micro-batch 4"
VARIANTS: dict[str, list[str]] = {
    "qwen2.5-0.5b": ["--shape", "qwen2.5-0.5b"],
    "qwen2.5-0.5b without graphs": ["--shape", "qwen2.5-0.5b", "--no-static-decode"],
    "qwen2.5-0.5b, 256 rows": ["--shape", "qwen2.5-0.5b", "--tasks", "32"],
    "qwen2.5-1.5b": ["--shape", "qwen2.5-1.5b", "--micro-batch", "8"],
}
SMALL_VARIANTS = {"tiny": ["--shape", "tiny", *SMALL_WORK.split()]}
DECODED = 32
CALLS: dict[str, dict[str, tuple[str, ...]]] = {
    "cpu": {"host reads": ("aten::_local_scalar_dense",)},
    "cuda": {
        "kernel launches": ("cudaLaunch", "cuLaunch"),
        "graph launches": ("cudaGraphLaunch",),
        "host reads": ("cudaStreamSynchronize",),
    },
}
"""How the profiler's names of what is counted begin."""


def speed(record: Record, options: Any) -> None:
    """A step of the paper's lengths: seconds by phase, memory against the estimate, what the
    teacher costs."""
    steps = "1" if options.small else "2"
    for name, arguments in (SMALL_VARIANTS if options.small else VARIANTS).items():
        output = options.out / f"step-{name.replace(' ', '-')}.json"
        command = [sys.executable, HERE / "step_speed.py", *arguments, "--steps", steps]
        done = subprocess.run([*command, "--output", output], check=False)
        record.equal(f"{name}/exit code", done.returncode, 0)
        if done.returncode:
            continue
        shape = arguments[arguments.index("--shape") + 1]
        result = json.loads(output.read_text(encoding="utf-8"))["shapes"][shape]
        for phase, values in result["phases"].items():
            record.note(f"{name}/{phase}_s", values["seconds"])
            if values.get("share_of_peak") is not None:
                record.note(f"{name}/{phase} share of peak", values["share_of_peak"])
        for key in ("step_seconds", "tokens_per_second"):
            record.note(f"{name}/{key}", result[key])
        record.note(f"{name}/sdar over grpo", round(1 + result["teacher_over_step_without"], 3))
        for phase, values in result["memory_gib"].items():
            if isinstance(values, dict):
                record.note(f"{name}/memory {phase} (GiB)", values["measured"])
                ratio = values["ratio"]
                record.check(f"{name}/estimate of {phase}", ratio, 0.9 < ratio < 2.0, "0.9 .. 2")


def profile(record: Record, options: Any) -> None:
    """What the device does in 32 decoded tokens, and in scoring and updating one step."""
    case = Case("profile", QWEN3 if options.small else DEEP, "sdar", policy={"dtype": "bfloat16"})
    learner = open_case(case, target())
    learner.engine.ends = frozenset()
    prompts = [list(range(1, 300))] * 8
    keys = [(0, 0, slot, 0) for slot in range(len(prompts))]
    activities = [ProfilerActivity.CPU]
    if target() == "cuda":
        activities.append(ProfilerActivity.CUDA)

    def decode() -> None:
        with learner.playing.accelerator.autocast():
            learner.engine.generate(prompts, keys, max_new_tokens=DECODED, temperature=1.0)

    batch = StepBatch.from_episodes(learner.rollout(0, PhaseClock()))
    for name, work, per, count in (
        ("decode", decode, "token", DECODED),
        ("old", lambda: learner.score_old(batch), "step", 1),
    ):
        work()  # compiled, captured, allocated
        with profiled(activities=activities) as found:
            work()
            if target() == "cuda":
                torch.cuda.synchronize()
        events = found.key_averages()
        kind = "device_time_total" if target() == "cuda" else "cpu_time_total"
        for what, starts in CALLS[target()].items():
            calls = sum(event.count for event in events if event.key.startswith(starts))
            record.note(f"{name}/{what} per {per}", round(calls / count, 2))
        top = sorted(events, key=lambda event: -getattr(event, f"self_{kind}"))[:8]
        for event in top:
            value = f"{getattr(event, f'self_{kind}') / 1000:.2f} ms in {event.count} calls"
            record.note(f"{name}/{event.key[:60]}", value)
