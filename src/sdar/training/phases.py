"""The plan of a warm start: fine-tuning on demonstrations, then rounds on relabelled episodes."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sdar.config import ExperimentConfig
from sdar.errors import SdarError
from sdar.policy.chat import ChatFormat, render_prompt
from sdar.training.demonstrations import Demonstration
from sdar.training.sft import Sample, Schedule

ROUND_WARMUP = 20
TOGETHER = 1024
"""Prompts that are encoded in one call."""


@dataclass(frozen=True)
class Phase:
    """A stretch of updates on one set of samples; round 0 is fine-tuning, then DAgger's rounds."""

    round: int
    first_update: int
    schedule: Schedule


def phases(config: ExperimentConfig) -> list[Phase]:
    """The warm start's plan."""
    settings, dagger, chosen = (
        config.warm_start,
        config.warm_start.dagger,
        config.chosen_warm_start,
    )
    plan = [Phase(0, 0, Schedule(chosen.updates, settings.warmup))]
    for number in range(1, chosen.dagger_rounds + 1):
        scale = dagger.learning_rate_scale * dagger.decay ** (number - 1)
        first = chosen.updates + (number - 1) * dagger.updates
        plan.append(Phase(number, first, Schedule(dagger.updates, ROUND_WARMUP, scale)))
    return plan


def as_sample(tokenizer: Any, turn: Demonstration) -> Sample:
    """Token ids of a turn."""
    prompt = render_prompt(tokenizer, turn.messages)
    return Sample(tuple(prompt), tuple(ChatFormat.of(tokenizer).response_ids(turn.response)))


def demonstrated_samples(
    tokenizer: Any, turns: Sequence[Demonstration], config: ExperimentConfig
) -> list[Sample]:
    """Token ids of the demonstrations. Raises `SdarError` where one is beyond the policy's limits:
    nothing has been computed yet. Turns that the policy reaches later are learned from at any
    length."""
    chat, samples = ChatFormat.of(tokenizer), []
    said = dict.fromkeys(turn.response for turn in turns)  # far fewer than turns
    responses = {text: tuple(chat.response_ids(text)) for text in said}
    for start in range(0, len(turns), TOGETHER):
        block = turns[start : start + TOGETHER]
        chat.prepare(turn.messages for turn in block)
        prompts = (tuple(chat.prompt_ids(turn.messages)) for turn in block)
        samples += [Sample(p, responses[t.response]) for p, t in zip(prompts, block, strict=True)]
    for turn, sample in zip(turns, samples, strict=True):
        key = "max_teacher_prompt_tokens" if turn.hinted else "max_prompt_tokens"
        needed = {key: len(sample.prompt_ids)}
        if config.policy.model != "tiny":
            needed["max_response_tokens"] = len(sample.response_ids)
        for key, tokens in needed.items():
            limit = getattr(config.policy, key)
            if tokens > limit:
                what = "prompt" if "prompt" in key else "response"
                raise SdarError(
                    f"policy.{key}: a demonstration of {turn.task_type} needs {tokens} {what} "
                    f"tokens, the limit is {limit}: raise it"
                )
    return samples


def mixture(
    demonstrated: Sequence[Sample], relabelled: Sequence[Sample], seed: int
) -> list[Sample]:
    """All of the policy's own relabelled turns, and as many demonstrations."""
    if not relabelled:
        return list(demonstrated)
    count = min(len(demonstrated), len(relabelled))
    return [*relabelled, *random.Random(f"mixture/{seed}").sample(list(demonstrated), count)]
