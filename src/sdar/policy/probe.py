"""Does the scorer compute what the model computes? Tried when a policy is loaded.

A few short sequences of different length go through the scorer, and one by one through the model's
own forward. Log-probabilities and gradients must agree to rounding. The quickest path that agrees is
kept; if none does, the policy is refused. So no family of models needs to be known here, and none is
scored wrongly without a word. It takes a few passes of some tens of tokens, and no random number.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sdar.errors import SdarError
from sdar.policy.micro_batches import pad_batch
from sdar.policy.paths import (
    SCORING_PATHS,
    ScoringPath,
    has_scoring_path,
    scoring_path,
    set_scoring_path,
    vocabulary_of,
)

PROMPTS = (3, 11, 7, 7)
RESPONSES = (4, 2, 6, 5)
GRADIENT_VALUES = 1 << 20
"""Most values of parameters whose gradient is compared."""
LONGEST_WINDOW = 4096
"""A longer window of attention is not tried."""
CPU_WORK = 1 << 40
"""Parameters times tokens of the pass beyond a window, at most, on a CPU (some ten seconds)."""
_ROUNDING = {torch.float64: 1e-4, torch.float32: 1e-4}
"""Nats, and gradients relative to the largest. `_COARSE` for shorter types."""
_COARSE = 0.05
_WINDOW = re.compile("window|chunk")
Path = TypeVar("Path", bound=str)


def find_scoring_path(model: Any, scorer_of: Callable[[Any], Any]) -> dict[str, str]:
    """Find and keep the path by which the model is scored; returns what ruled each quicker one out.

    `scorer_of` makes a `PolicyScorer`.
    Raises `SdarError` that names the family and what differs when no path agrees.
    """
    with as_in_use(model):
        sequences = probe_sequences(model)
        with torch.no_grad():
            expected = [own_log_probs(model, *sequence) for sequence in sequences]

        def try_path(path: ScoringPath) -> str | None:
            set_scoring_path(model, path)
            return _difference(model, scorer_of(model), sequences, expected)

        before = scoring_path(model) if has_scoring_path(model) else None
        try:
            path, against = first_that_agrees(SCORING_PATHS, try_path)
        except BaseException:
            set_scoring_path(model, before)
            raise
        set_scoring_path(model, path)
        if path is None:
            raise refusal(model, "scored", against)
        return against


def first_that_agrees(
    paths: Sequence[Path], try_path: Callable[[Path], str | None]
) -> tuple[Path | None, dict[str, str]]:
    """The first path for which `try_path` says nothing, and what it said of those before it."""
    against: dict[str, str] = {}
    for path in paths:
        try:
            said = try_path(path)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a family's code raises where it does not fit
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        if said is None:
            return path, against
        against[path] = said
    return None, against


def refusal(model: Any, what: str, against: dict[str, str]) -> SdarError:
    """The sentence for a model that no path computes."""
    reasons = "; ".join(f"{path}: {said}" for path, said in against.items())
    return SdarError(
        f"policy.model: a model of the family {model.config.model_type} cannot be {what} exactly "
        f"({reasons}): take a model of another family (docs/models.md)"
    )


@contextmanager
def as_in_use(model: Any) -> Iterator[None]:
    """Evaluation mode, full precision of the weights, and no trace in the random generators."""
    training, kind = model.training, next(model.parameters()).device.type
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.autocast(kind, enabled=False):
            yield
    finally:
        model.train(training)


def probe_sequences(model: Any, most: int | None = None) -> list[tuple[list[int], list[int]]]:
    """Prompts and responses of different length, of tokens without a meaning to the model's code,
    and one prompt beyond the longest window that matters (in sequences of at most `most` tokens)
    and can be tried."""
    tried = (
        window
        for window in windows(model.config)
        if _affordable(model, window) and (most is None or window < most)
    )
    beyond = max(tried, default=0)
    prompts = [*PROMPTS, *([beyond + 3] if beyond else [])]
    responses = [*RESPONSES, *([4] if beyond else [])]
    ids = iter(plain_ids(model, sum(prompts) + sum(responses)))

    def take(count: int) -> list[int]:
        return [next(ids) for _ in range(count)]

    return [(take(p), take(r)) for p, r in zip(prompts, responses, strict=True)]


def plain_ids(model: Any, count: int) -> list[int]:
    """Token ids, always the same, none of which the configuration names (such as an image's)."""
    named = {
        value
        for config in (model.config, model.config.get_text_config(decoder=True))
        for key, value in config.to_dict().items()
        if isinstance(value, int) and key.endswith(("_token_id", "_token_index"))
    }
    plain = [token for token in range(min(vocabulary_of(model), 1 << 12)) if token not in named]
    draws = np.random.Generator(np.random.Philox(key=10)).integers(len(plain), size=count)
    return [plain[draw] for draw in draws]


def windows(config: Any) -> list[int]:
    """Lengths in tokens, below the context, to which some layer's attention is limited."""
    text = config.get_text_config(decoder=True)
    context = getattr(text, "max_position_embeddings", None) or 1 << 30
    return sorted(
        {
            value
            for key, value in text.to_dict().items()
            if _WINDOW.search(key) and type(value) is int and 1 < value < context - 16
        }
    )


def _affordable(model: Any, window: int) -> bool:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    on_cpu = next(model.parameters()).device.type == "cpu"
    return window <= LONGEST_WINDOW and not (on_cpu and parameters * window > CPU_WORK)


def own_log_probs(model: Any, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
    """Log-probs `[R]` of a response by the model's own forward: one sequence, no cache."""
    device = next(model.parameters()).device
    ids = torch.tensor([[*prompt, *response]], device=device)
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    logits = logits if logits.dtype == torch.float64 else logits.float()
    chosen = ids[0, len(prompt) :, None]
    return logits.log_softmax(dim=-1).gather(1, chosen)[:, 0]


def allowed(model: Any, prompt: Sequence[int], response: Sequence[int]) -> float:
    """How far apart two ways to compute the same log-probs may be, in nats.

    Rounding grows with a model; what the model's own forward differs by when the sequence stands
    twice in a batch, with a token behind it, is rounding too. Up to twenty times the usual.
    """
    usual = usual_difference(model)
    device = next(model.parameters()).device
    ids = torch.tensor([[*prompt, *response, prompt[0]]] * 2, device=device)
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[1, len(prompt) - 1 : -2]
        twice = logits.to(torch.float64).log_softmax(dim=-1)
        chosen = ids[0, len(prompt) : -1, None]
        apart = twice.gather(1, chosen)[:, 0] - own_log_probs(model, prompt, response)
    return min(20 * usual, max(usual, 4 * float(apart.abs().max())))


def usual_difference(model: Any) -> float:
    """How far apart rounding puts two ways to compute a log-prob, in nats."""
    return _ROUNDING.get(next(model.parameters()).dtype, _COARSE)


def _difference(
    model: Any,
    scorer: Any,
    sequences: list[tuple[list[int], list[int]]],
    expected: list[Tensor],
) -> str | None:
    """What the scorer, on the path that is set, computes otherwise than `expected`; None: nothing."""
    device = next(model.parameters()).device
    batch = pad_batch(*zip(*sequences, strict=True), device)  # type: ignore[arg-type]
    with torch.no_grad():
        scores_SR = scorer(batch).log_probs
    apart = max(
        _most(scores_SR[row, : len(wanted)] - wanted.detach()) for row, wanted in enumerate(expected)
    )
    if not apart <= usual_difference(model) and not apart <= allowed(model, *sequences[2]):
        return f"log-probs differ by {apart:.2g} nats"
    return _gradient_difference(model, scorer, sequences[: len(PROMPTS)])


def _gradient_difference(
    model: Any, scorer: Any, sequences: list[tuple[list[int], list[int]]]
) -> str | None:
    some = _small_parameters(model)
    if not some:
        return None
    device = some[0].device
    batch = pad_batch(*zip(*sequences, strict=True), device)  # type: ignore[arg-type]
    with torch.enable_grad():
        own = torch.stack([own_log_probs(model, *sequence).sum() for sequence in sequences])
        weights = torch.arange(1, len(own) + 1, device=device).to(own.dtype)
        wanted = _gradients((weights * own).sum(), some)
        found = _gradients((weights * scorer(batch).log_probs.sum(dim=1)).sum(), some)
    scale = max(1.0, max(_most(gradient) for gradient in wanted))
    apart = max(_most(a - b) for a, b in zip(wanted, found, strict=True)) / scale
    limit = usual_difference(model) if usual_difference(model) < _COARSE else 4 * _COARSE
    return None if apart <= limit else f"gradients differ by {apart:.2g} of the largest"


def _small_parameters(model: Any) -> list[Tensor]:
    chosen: list[Tensor] = []
    values = 0
    for parameter in sorted(model.parameters(), key=lambda parameter: parameter.numel()):
        values += parameter.numel()
        if parameter.requires_grad and (values <= GRADIENT_VALUES or not chosen):
            chosen.append(parameter)
    return chosen


def _gradients(value: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    return [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(parameters, found, strict=True)
    ]


def _most(values: Tensor) -> float:
    return float(values.abs().max())
