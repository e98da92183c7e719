"""Does the engine sample from what the model computes? Tried when it is opened.

As for the scorer (`policy.probe`): a few short prompts of different length are answered, some
responses end early and some begin late, and each log-probability is compared with the model's own
forward without a cache. The quickest path that agrees is taken.

`static`: a key-value cache of the engine's own, in fixed shapes, on CUDA as graphs. `fast`: such a
cache in shapes that follow the responses. `general`: the model's forward and cache, prompts of
different length padded on the left together. `single`: each response with a cache of its own.
`uncached`: every step computes the whole sequence again.
"""

from typing import Any, Literal

import torch

from sdar.policy.paths import has_fast_parts, vocabulary_of
from sdar.policy.probe import (
    NO_FAST_PARTS,
    Samples,
    as_in_use,
    disagreement,
    first_that_agrees,
    own_log_probs,
    probe_samples,
    refusal,
    windows,
)
from sdar.policy.trunk import FAMILIES
from sdar.rollout.engines.base import Generation

SamplingPath = Literal["static", "fast", "general", "single", "uncached"]
SAMPLING_PATHS: tuple[SamplingPath, ...] = ("static", "fast", "general", "single", "uncached")
"""Quickest first."""
FAST_PATHS: tuple[SamplingPath, ...] = ("static", "fast")
"""Those of layers and a head that the engine knows."""
NEW_TOKENS = 5


def sampling_path(engine: Any, model: Any, longest: int | None) -> SamplingPath:
    """The path of an engine (a class) for a model that nothing was tried for. `open_engine` tries
    every model; of those made otherwise only what is not decoded on the fast path, which was
    written for some families, or may be decoded better."""
    if (
        model.device.type == "cpu"
        and model.config.model_type in FAMILIES
        and not _windows(model, longest)
    ):
        return "fast"
    return find_sampling_path(engine, model, longest)[0]


def find_sampling_path(
    engine: Any, model: Any, longest: int | None = None, static: bool | None = None
) -> tuple[SamplingPath, dict[str, str]]:
    """The path that agrees with the model, and what ruled each quicker one out. `longest` is the
    most tokens of a prompt with its response: windows beyond it do not matter. `static`: whether
    that path is tried; None: on CUDA.

    Raises `SdarError` that names the family and what differs when no path agrees.
    """
    with as_in_use(model), torch.no_grad():
        samples = probe_samples(model, longest)

        def try_path(path: SamplingPath) -> str | None:
            if path in FAST_PATHS and (limits := _windows(model, longest)):
                return f"attention is limited to {limits[0]} tokens"
            if path in FAST_PATHS and not has_fast_parts(model):
                return NO_FAST_PARTS
            return _difference(engine, model, path, samples)

        wanted = model.device.type == "cuda" if static is None else static
        path, against = first_that_agrees(SAMPLING_PATHS[0 if wanted else 1 :], try_path)
    if path is None:
        raise refusal(model, "sampled from", against, longest)
    return path, against


def _windows(model: Any, longest: int | None) -> list[int]:
    return [window for window in windows(model.config) if longest is None or window < longest]


def _difference(engine_class: Any, model: Any, path: SamplingPath, samples: Samples) -> str | None:
    """How the log-probs of tokens sampled on this path differ; None: not."""
    prompts, ends = samples.prompts, frozenset(range(0, vocabulary_of(model), 8))
    engine = engine_class(model, None, ends=ends, path=path)
    keys = [(0, 0, slot, 0) for slot in range(len(prompts))]
    with torch.no_grad():
        found = engine.generate(prompts, keys, max_new_tokens=NEW_TOKENS, temperature=1.0)
    pairs = list(zip(prompts, found, strict=True))
    if hasattr(engine, "submit"):
        pairs += _with_late_ones(engine, prompts)
    apart = []
    for prompt, generation in pairs:
        wanted = own_log_probs(model, prompt, generation.token_ids)
        apart.append(wanted - torch.tensor(generation.log_probs, device=wanted.device))
    return disagreement(model, samples, torch.cat(apart))


def _with_late_ones(engine: Any, prompts: list[list[int]]) -> list[tuple[list[int], Generation]]:
    """The prompts in order, and again backwards while the first are being answered."""
    ended: list[tuple[int, Generation]] = []
    order = [*prompts, *reversed(prompts)]

    def submit(names: range) -> None:
        for name in names:
            engine.submit(
                name, order[name], (1, 0, name, 0), max_new_tokens=NEW_TOKENS, temperature=1.0
            )

    submit(range(len(prompts)))
    ended += engine.advance()
    submit(range(len(prompts), len(order)))
    while len(ended) < len(order):
        ended += engine.advance()
    engine.close()
    return [(order[name], generation) for name, generation in ended]
