"""One full SDAR step of a randomly initialised policy: seconds, share of peak, memory.

    sdar bench step [--shape qwen2.5-0.5b] [--output FILE]

Runs the trainer's own `training_step` (rollout, old, teacher and reference log-probs, update) on
synthetic work of ALFWorld's lengths: see step_world.py. On a GPU in bfloat16, on a CPU in float32.
The first step warms up, then `--steps` are timed and their median counts. What a phase computes is
counted by formula (`arithmetic`); its memory is that of tensors at their peak,
beside the estimate (docs/memory.md). The result joins those of the machine in benchmarks/results.

Left out: an environment's own time, the end of responses before the limit, other engines, ranks.
"""

import argparse
import json
import os
import statistics
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from arithmetic import TRAINING, generation_flops, peak_flops, scoring_flops
from machine import machine, machine_name, recorded
from measuring import LiveTensors
from step_world import Skills, World, lengths, make_tokenizer, tasks
from transformers import AutoConfig, AutoModelForCausalLM

from sdar.clock import PhaseClock
from sdar.config import ExperimentConfig, parse_config
from sdar.memory.estimate import GIB, MemoryEstimate, estimate
from sdar.policy.reproducible import make_reproducible
from sdar.policy.shape import ModelShape, known_configs, shape_of_config
from sdar.training import trainer
from sdar.training.learner import Learner
from sdar.training.parts import Parts, make_accelerator, trained_method
from sdar.training.step_result import StepResult

SLACK = 16
"""Tokens by which prompts differ in length."""
SMALL = {"model_type": "qwen3", "tie_word_embeddings": True, "num_attention_heads": 4}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": SMALL
    | {
        "vocab_size": 768,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "head_dim": 32,
    },
    "qwen3-20m": SMALL
    | {
        "vocab_size": 16384,
        "hidden_size": 384,
        "intermediate_size": 1152,
        "num_hidden_layers": 8,
        "num_key_value_heads": 2,
        "head_dim": 96,
    },
    "qwen2.5-0.5b": known_configs()["Qwen/Qwen2.5-0.5B-Instruct"],
    "qwen3-0.6b": known_configs()["Qwen/Qwen3-0.6B"],
    "qwen2.5-1.5b": known_configs()["Qwen/Qwen2.5-1.5B-Instruct"],
}


class MeasuringClock(PhaseClock):
    """Waits for the GPU at both ends of a phase, and notes the most bytes it had allocated.

    On a CPU, and there only in a step that `counts`, torch's tensors are counted as operations make
    and drop them, which takes time; `held` are those that are there before.
    """

    peaks: ClassVar[defaultdict[str, int]] = defaultdict(int)
    held: ClassVar[list[Any]] = []
    counts: ClassVar[bool] = False

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            with super().__call__(phase):
                yield
                torch.cuda.synchronize()
            self.note(phase, torch.cuda.max_memory_allocated())
        elif self.counts and phase != "environment":
            with LiveTensors(*self.held) as live, super().__call__(phase):
                yield
            self.note(phase, live.peak)
        else:
            with super().__call__(phase):
                yield

    def note(self, phase: str, peak: int) -> None:
        self.peaks[phase] = max(self.peaks[phase], peak)


def configuration(options: argparse.Namespace, prompt: int, taught: int) -> ExperimentConfig:
    """The paper's ALFWorld settings, with limits that the synthetic prompts just keep to."""
    on_gpu = torch.cuda.is_available()
    return parse_config(
        {
            "experiment": "step",
            "environment": {"max_turns": options.turns, "history": 0, "success_reward": 10.0},
            "policy": {
                "context": 1 << 15,
                "dtype": "bfloat16" if on_gpu else "float32",
                "max_prompt_tokens": prompt,
                "max_teacher_prompt_tokens": taught,
                "max_response_tokens": options.response,
            },
            "rollout": {
                "batch": options.tasks * options.group,
                "static_decode": False if options.no_static_decode else None,
            },
            "training": {
                "steps": options.steps + 2,
                "tasks_per_step": options.tasks,
                "group_size": options.group,
                "minibatch": max(options.minibatch, options.micro_batch),
                "micro_batch": options.micro_batch,
                "activation_checkpointing": options.activation_checkpointing,
                "learning_rate": 1e-6,
                "distillation": {"coefficient": 0.01},
            },
            "execution": {"threads": options.threads},
            "tracking": {"enabled": False},
        }
    )


def flops(shape: ModelShape, done: StepResult) -> dict[str, float]:
    """Of each phase of a step, by formula."""
    flops: dict[str, float] = defaultdict(float)
    known: set[tuple[int, ...]] = set()
    for turn in done.batch.turns:
        prompt, response = len(turn.prompt.token_ids), len(turn.response_ids)
        key = (turn.moment.index, *turn.prompt.token_ids)
        flops["generation"] += generation_flops(shape, prompt, response, shared=key in known)
        known.add(key)
        forward = scoring_flops(shape, prompt, response)
        flops["old"] += forward
        flops["reference"] += forward
        if turn.teacher is not None:
            prompt = len(turn.teacher.prompt.token_ids)
            flops["teacher"] += scoring_flops(shape, prompt, response)
        flops["update"] += TRAINING * forward
    return flops


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All numbers of one shape."""
    values = SHAPES[options.shape]
    shape = shape_of_config(values)
    assert shape is not None
    tokenizer = make_tokenizer(shape.vocabulary)
    seen, told = lengths(tokenizer, options.prompt, options.skill)
    prompt = options.prompt + SLACK
    config = configuration(options, prompt, prompt + options.skill + SLACK)

    make_reproducible(options.threads)
    accelerator = make_accelerator(config)
    torch.manual_seed(0)
    with accelerator.device:
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**values, max_position_embeddings=1 << 15),
            dtype=torch.float32,
            attn_implementation="sdpa",
        )
    world, known = World(options.turns, seen), tasks(4 * options.tasks)
    parts = Parts(model, tokenizer, world, known, Skills(told), {})
    method = trained_method("sdar")
    expected = estimate(shape, config, method, on_gpu=torch.cuda.is_available())
    learner = Learner.prepare(parts, config, method, 0, accelerator)
    learner.engine.ends = frozenset()
    trainer.PhaseClock = MeasuringClock  # type: ignore[misc]

    held = (model, learner.optimizer.optimizer, learner.reference.scorer)
    MeasuringClock.held = list(held)

    steps = []
    # On a CPU one more, whose tensors are counted.
    for step in range(options.steps + 1 + (not torch.cuda.is_available())):
        MeasuringClock.counts = step == options.steps + 1
        done = trainer.training_step(learner, step)
        print(f"step {step}: {sum(done.clock.seconds.values()):.2f} s", flush=True)
        if 0 < step <= options.steps:
            steps.append(done)
    learner.close()
    return {
        "shape": options.shape,
        "load_average": round(os.getloadavg()[0], 1),
        "parameters": shape.parameters,
        "work": work(config, steps[-1]),
        "phases": phases(shape, steps, machine_name()),
        **totals(steps),
        "memory_gib": memory(expected),
    }


def work(config: ExperimentConfig, done: StepResult) -> dict[str, Any]:
    samples = len(done.batch)
    return {
        "dtype": config.policy.dtype,
        "samples": samples,
        "prompt_tokens_mean": round(sum(map(len, done.batch.prompts)) / samples, 1),
        "teacher_prompt_tokens_mean": round(sum(map(len, done.batch.teacher_prompts)) / samples, 1),
        "response_tokens_mean": round(sum(map(len, done.batch.responses)) / samples, 1),
        "minibatch": config.training.minibatch,
        "micro_batch": config.training.micro_batch,
        "activation_checkpointing": config.training.activation_checkpointing,
        "threads": config.execution.threads,
    }


def phases(shape: ModelShape, steps: list[StepResult], device: str) -> dict[str, Any]:
    """Median seconds, tokens per second (prompt and response), TFLOP/s and share of peak."""
    counted, peak = flops(shape, steps[-1]), peak_flops(device)
    tokens = sum(steps[-1].batch.lengths())
    phases = {}
    for name in ("environment", "generation", "old", "teacher", "reference", "update"):
        seconds = statistics.median(step.clock.seconds[name] for step in steps)
        phases[name] = {"seconds": round(seconds, 4)}
        if name in counted:
            rate = counted[name] / seconds
            phases[name] |= {
                "tokens_per_second": round(tokens / seconds, 1),
                "tflops_per_second": round(rate / 1e12, 4),
                "share_of_peak": None if peak is None else round(rate / peak, 4),
            }
    return phases


def totals(steps: list[StepResult]) -> dict[str, float]:
    whole = statistics.median(sum(step.clock.seconds.values()) for step in steps)
    teacher = statistics.median(step.clock.seconds["teacher"] for step in steps)
    return {
        "step_seconds": round(whole, 3),
        "tokens_per_second": round(sum(steps[-1].batch.lengths()) / whole, 1),
        "teacher_share_of_step": round(teacher / whole, 4),
        "teacher_over_step_without": round(teacher / (whole - teacher), 4),
    }


def memory(expected: MemoryEstimate) -> dict[str, Any]:
    """Tensors' peaks in GiB beside the estimate's, CUDA's own part left out."""
    peaks = MeasuringClock.peaks
    estimated = {phase.name: phase.total - phase.parts["CUDA"] for phase in expected.phases}
    estimated["update"] = max(estimated["update"], estimated.pop("optimizer step"))
    measured = {
        "rollout": peaks["generation"],
        "scoring": max(peaks[name] for name in ("old", "teacher", "reference")),
        "update": peaks["update"],
    }
    result: dict[str, Any] = {
        name: {
            "estimated": round(estimated[name] / GIB, 4),
            "measured": round(value / GIB, 4),
            "ratio": round(estimated[name] / value, 3),
        }
        for name, value in measured.items()
    }
    if torch.cuda.is_available():
        # With what the allocator keeps between tensors.
        result["reserved"] = round(torch.cuda.max_memory_reserved() / GIB, 4)
    return result


def write(result: dict[str, Any], output: Path | None) -> Path:
    """Among the results of this machine's other shapes."""
    path = output or recorded("step")
    kept = json.loads(path.read_text(encoding="utf-8"))["shapes"] if path.is_file() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"machine": machine(), "shapes": kept | {result["shape"]: result}}
    path.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")
    return path


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    usual = "qwen2.5-0.5b" if on_gpu else "tiny"
    parser.add_argument("--shape", choices=SHAPES, default=usual)
    parser.add_argument("--steps", type=int, default=3, help="timed, after one to warm up")
    parser.add_argument("--tasks", type=int, default=16 if on_gpu else 2)
    parser.add_argument("--group", type=int, default=8 if on_gpu else 4)
    parser.add_argument("--turns", type=int, default=4 if on_gpu else 2)
    parser.add_argument("--prompt", type=int, default=500, help="tokens, about")
    parser.add_argument("--skill", type=int, default=250, help="tokens more for the teacher")
    parser.add_argument("--response", type=int, default=130, help="tokens, of each")
    parser.add_argument("--minibatch", type=int, default=256)
    parser.add_argument("--micro-batch", type=int, default=16)
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument(
        "--no-static-decode", action="store_true", help="rollout.static_decode false"
    )
    parser.add_argument("--threads", type=int, default=8 if on_gpu else 1)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/step-MACHINE.json")
    options = parser.parse_args()
    result = measure(options)
    path = write(result, options.output)
    print(json.dumps(result, indent=1))
    print(f"written: {path}")


if __name__ == "__main__":
    main()
