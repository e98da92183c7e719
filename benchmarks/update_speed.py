"""Phases of a training step after the rollout: scoring, teacher, reference, update.

    python benchmarks/update_speed.py [--threads 1] [--samples 256] [--config FILE]

A random policy of the configuration's shape, random prompts of ALFWorld's lengths. Each phase runs
`--repeats` times after one to warm up; the fastest counts. Prints JSON: seconds, tokens per second
(prompt and response), and the teacher's share of a GRPO step without rollout.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from step_world import make_tokenizer
from transformers import PretrainedConfig, Qwen3Config, Qwen3ForCausalLM

from sdar.config import ExperimentConfig, load_config
from sdar.environments.base import Moment, Task
from sdar.rollout.episode import Prompt, Turn
from sdar.training.learner import Learner
from sdar.training.parts import make_accelerator, trained_method
from sdar.training.step_batch import StepBatch

PROMPT_TOKENS = (130, 250)
SKILL_TOKENS = 60
RESPONSE_TOKENS = (6, 16)


def random_policy(config: ExperimentConfig) -> Qwen3ForCausalLM:
    tiny = config.policy.tiny
    shape: PretrainedConfig = Qwen3Config(
        vocab_size=tiny.vocabulary,
        hidden_size=tiny.hidden,
        intermediate_size=tiny.intermediate,
        num_hidden_layers=tiny.layers,
        num_attention_heads=tiny.heads,
        num_key_value_heads=tiny.kv_heads,
        head_dim=tiny.hidden // tiny.heads,
        max_position_embeddings=tiny.context,
        tie_word_embeddings=True,
        eos_token_id=0,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    return Qwen3ForCausalLM(shape)


def random_batch(samples: int, vocabulary: int) -> tuple[StepBatch, list[list[int]]]:
    """Samples of random tokens, and the longer prompts of the teacher."""
    rng = np.random.default_rng(0)

    def tokens(count: int) -> list[int]:
        return rng.integers(3, vocabulary, size=count).tolist()

    moment = Moment(Task("", "", "", "", ""), (), "", (), 0)
    turns = [
        Turn(
            Prompt(moment, [], tokens(rng.integers(*PROMPT_TOKENS))),
            tokens(rng.integers(*RESPONSE_TOKENS)),
        )
        for _ in range(samples)
    ]
    lengths = torch.tensor([len(turn.response_ids) for turn in turns])
    mask_SR = torch.arange(int(lengths.max())) < lengths[:, None]
    teacher = [tokens(SKILL_TOKENS) + turn.prompt.token_ids for turn in turns]
    return StepBatch([], [], turns, mask_SR), teacher


def fastest(repeats: int, phase: Callable[[], Any]) -> float:
    phase()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        phase()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--config", type=Path, help="shape and settings; default: the default's")
    options = parser.parse_args()
    config = load_config(options.config) if options.config else ExperimentConfig()
    torch.set_num_threads(options.threads)
    accelerator = make_accelerator(config)
    parts: Any = SimpleNamespace(
        model=random_policy(config).to(accelerator.device),
        tokenizer=make_tokenizer(config.policy.tiny.vocabulary),
    )
    learner = Learner.prepare(parts, config, trained_method("sdar"), 0, accelerator)
    batch, teacher = random_batch(options.samples, config.policy.tiny.vocabulary)

    old_SR = learner.scoring.log_probs(batch, batch.prompts)
    teacher_SR = learner.scoring.log_probs(batch, teacher)
    advantages_SR = torch.where(batch.response_mask_SR, 1.0, 0.0)
    phases: dict[str, Callable[[], Any]] = {
        "old": lambda: learner.scoring.log_probs(batch, batch.prompts),
        "teacher": lambda: learner.scoring.log_probs(batch, teacher),
        "reference": lambda: learner.score_reference(batch),
        "update": lambda: learner.update(0, batch, old_SR, teacher_SR, old_SR, advantages_SR),
    }
    seconds = {name: fastest(options.repeats, phase) for name, phase in phases.items()}
    student = sum(batch.lengths())
    taught = student + SKILL_TOKENS * len(batch)
    rates = {
        name: round((taught if name == "teacher" else student) / value)
        for name, value in seconds.items()
    }
    others = sum(seconds.values()) - seconds["teacher"]
    print(
        json.dumps(
            {
                "device": str(accelerator.device),
                "threads": options.threads,
                "samples": len(batch),
                "tokens": student,
                "seconds": {name: round(value, 3) for name, value in seconds.items()},
                "tokens_per_second": rates,
                "teacher_share_of_the_rest": round(seconds["teacher"] / others, 3),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
