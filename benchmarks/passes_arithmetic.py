"""Two quantities of passes_speed.py that need no real step: the update's share of what a matrix
product reaches, and the memory of log-probs over a large vocabulary."""

import argparse
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from arithmetic import TRAINING, scoring_flops
from measuring import LiveTensors
from passes_ratios import Measured, alternate, ratio, spread
from step_protocol import Timing, stopwatch
from step_speed import SHAPES
from step_world import make_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM
from update_speed import random_batch

from sdar.config import ExperimentConfig
from sdar.memory.estimate import GIB
from sdar.policy.log_probs import PolicyScorer
from sdar.policy.micro_batches import pad_batch
from sdar.policy.shape import shape_of_config
from sdar.training.learner import Learner
from sdar.training.parts import make_accelerator, trained_method

SAMPLES = {"tiny": 128, "qwen3-20m": 16}
"""Of an update, by shape."""
MATRIX = 1024
VOCABULARY, RESPONSES, LONG = 151_936, 64, 128
"""Log-probs of so many responses of so many tokens: 8,192."""


def random_model(values: dict[str, Any], context: int = 4096) -> Any:
    torch.manual_seed(0)
    shape = AutoConfig.for_model(**values, max_position_embeddings=context)
    return AutoModelForCausalLM.from_config(
        shape, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()


def timed(run: Callable[[], Any], work: float, threads: int) -> Timing:
    clocks = stopwatch(threads)
    before = clocks()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    after = clocks()
    return Timing(after[0] - before[0], after[1] - before[1], work)


def share_of_matmul_peak(name: str, options: argparse.Namespace) -> Measured:
    """FLOPs a second of the update, by formula, over those of a product of two square matrices of
    `MATRIX`. Its samples are random tokens, which have no beginnings in common: with and without
    shared prefixes the update computes each token that is counted."""
    values = SHAPES[name]
    shape = shape_of_config(values)
    assert shape is not None
    config, threads = ExperimentConfig(), ExperimentConfig().execution.threads
    accelerator = make_accelerator(config)
    torch.set_num_threads(threads)
    model = random_model(values).to(accelerator.device)
    parts: Any = SimpleNamespace(model=model, tokenizer=make_tokenizer(shape.vocabulary))
    learner = Learner.prepare(parts, config, trained_method("grpo"), 0, accelerator)
    samples = 8 if options.small else SAMPLES[name]
    batch, _ = random_batch(samples, shape.vocabulary)
    old_SR = learner.scoring.log_probs(batch, batch.prompts)
    advantages_SR = torch.where(batch.response_mask_SR, 1.0, 0.0)
    flops = TRAINING * sum(
        scoring_flops(shape, len(turn.prompt.token_ids), len(turn.response_ids))
        for turn in batch.turns
    )
    left, right = torch.rand(2, MATRIX, MATRIX, device=accelerator.device)
    product = 2.0 * MATRIX**3
    times = max(1, round(flops / product))

    def multiply() -> None:
        for _ in range(times):
            torch.mm(left, right)

    def update() -> None:
        learner.update(0, batch, old_SR, None, old_SR, advantages_SR)

    pairs = alternate(
        lambda: timed(multiply, times * product, threads),
        lambda: timed(update, flops, threads),
        options.rounds,
    )
    learner.close()
    return ratio(pairs)


def log_prob_peak(options: argparse.Namespace) -> Measured:
    """Most GiB of tensors at once, beside weights and their gradients, while the log-probs of 8,192
    tokens over a vocabulary of 151,936 are computed and differentiated, entropy included, as the
    update does in one micro-batch. Counted, not timed: the same in every run. A narrow model of one
    layer, so that what is counted is the head's."""
    vocabulary = 8192 if options.small else VOCABULARY
    responses = 4 if options.small else RESPONSES
    one_layer = SHAPES["tiny"] | {"vocab_size": vocabulary, "num_hidden_layers": 1}
    model = random_model(one_layer)
    scorer = PolicyScorer(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocabulary, (responses, LONG), generator=random).tolist()
    batch = pad_batch([[row] for row in range(responses)], tokens)
    peaks = {}
    with LiveTensors(model) as live, torch.no_grad():
        before = live.bytes
        scorer(batch)
    peaks["without gradient"] = (live.peak - before) / GIB
    with LiveTensors(model) as live:
        before = live.bytes
        scores = scorer(batch, entropy=True)
        (scores.log_probs.sum() + scores.entropy.sum()).backward()
    peaks["with gradient"] = (live.peak - before) / GIB
    details = {name: round(value, 4) for name, value in peaks.items()}
    about = {"vocabulary": vocabulary, "tokens": responses * LONG, "hidden": 128}
    return Measured(spread([max(peaks.values())]), details={**details, **about})
