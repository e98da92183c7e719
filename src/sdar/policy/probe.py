"""Does the scorer compute what the model computes? Tried when a policy is loaded.

A few short sequences of different length go through the scorer together, and one by one through the
model's own forward. Log-probabilities and gradients must agree to rounding. The quickest path that
agrees is kept; if none does, the policy is refused. So no family of models needs to be known here,
and none is scored wrongly without a word. It takes a few passes of some tens of tokens, and leaves
the random generators as they are.

Shape suffixes: S samples, R response tokens.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sdar.errors import SdarError
from sdar.policy.micro_batches import TokenBatch, pad_batch
from sdar.policy.paths import (
    SCORING_PATHS,
    ScoringPath,
    has_fast_parts,
    has_scoring_path,
    scoring_path,
    set_scoring_path,
    vocabulary_of,
)

PROMPT_TOKENS = (3, 11, 7, 7)
RESPONSE_TOKENS = (4, 2, 6, 5)
LONG_RESPONSE = 4
GRADIENT_VALUES = 1 << 20
"""Most values of parameters whose gradient is compared."""
LONGEST_WINDOW = 4096
"""A longer window of attention is not tried."""
CPU_WORK = 1 << 40
"""Parameters times tokens of the pass beyond a window, at most, on a CPU (some ten seconds)."""
FINE, COARSE = (1e-4, 1e-2), (0.2, 1.0)
"""What rounding amounts to, usually and at most, in types of 32 and of 16 bits: nats, and gradients
relative to the largest."""
_WINDOW = re.compile("(window|window_size|attention_chunk_size)$")
NO_FAST_PARTS = "has no parts `model` and `lm_head`"
Path = TypeVar("Path", bound=str)


@dataclass(frozen=True)
class Samples:
    """What is scored in the trial."""

    prompts: list[list[int]]
    responses: list[list[int]]
    share: bool = False
    """Whether what they begin with in common is computed once."""

    def __iter__(self) -> Iterator[tuple[list[int], list[int]]]:
        return iter(zip(self.prompts, self.responses, strict=True))

    def first(self, count: int) -> "Samples":
        """Without the later ones."""
        return Samples(self.prompts[:count], self.responses[:count], self.share)

    def batch(self, device: Any) -> TokenBatch:
        """All of them together, padded."""
        return pad_batch(self.prompts, self.responses, device, share=self.share)


def find_scoring_path(
    model: Any, scorer_of: Callable[[Any], Any], longest: int | None = None
) -> dict[str, str]:
    """Find and keep the path by which the model is scored; returns what ruled each quicker one out.

    `scorer_of` makes a `PolicyScorer` of the model; `longest` is the most tokens of a prompt with
    its response, where it is known: windows beyond it do not matter. Raises `SdarError` that names
    the family and what differs when no path agrees.
    """
    before = scoring_path(model) if has_scoring_path(model) else None
    with as_in_use(model):
        samples = probe_samples(model, longest)
        expected = [own_log_probs_or_refuse(model, *sample) for sample in samples]

        def try_path(path: ScoringPath) -> str | None:
            if path == "fast" and not has_fast_parts(model):
                return NO_FAST_PARTS
            set_scoring_path(model, path)
            return difference(model, scorer_of(model), samples, expected)

        try:
            path, against = first_that_agrees(SCORING_PATHS, try_path)
        finally:
            set_scoring_path(model, before)
    if path is None:
        raise refusal(model, "scored", against, longest)
    set_scoring_path(model, path)
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
            said = _in_words(error)
        if said is None:
            return path, against
        against[path] = said
    return None, against


def refusal(model: Any, what: str, against: dict[str, str], longest: int | None) -> SdarError:
    """The sentence for a model that no path computes."""
    reasons = "; ".join(f"{path}: {said}" for path, said in against.items())
    reached = [window for window in windows(model.config) if longest is None or window < longest]
    shorter = (
        f"keep prompts with their responses within {reached[0]} tokens, or " if reached else ""
    )
    return SdarError(
        f"policy.model: a model of the family {model.config.model_type} cannot be {what} exactly "
        f"({reasons}): {shorter}take a model of another family (docs/models.md)"
    )


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"


@contextmanager
def as_in_use(model: Any) -> Iterator[None]:
    """Evaluation mode, in the type of the weights, and no trace in the random generators."""
    training, kind = model.training, next(model.parameters()).device.type
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.autocast(kind, enabled=False):
            yield
    finally:
        model.train(training)


def probe_samples(model: Any, most: int | None = None) -> Samples:
    """Prompts and responses of different length, of tokens without a meaning to the model's code,
    and two at the longest window that matters (in sequences of at most `most` tokens) and can be
    tried: a prompt beyond it, and one whose response crosses it."""
    tried = (
        window
        for window in windows(model.config)
        if _affordable(model, window) and (most is None or window < most)
    )
    window = max(tried, default=0)
    prompts = [*PROMPT_TOKENS, *([window + 3, window - 1] if window else [])]
    responses = [*RESPONSE_TOKENS, *([LONG_RESPONSE] * 2 if window else [])]
    ids = iter(plain_ids(model, sum(prompts) + sum(responses)))
    drawn_prompts, drawn_responses = (
        [[next(ids) for _ in range(count)] for count in counts] for counts in (prompts, responses)
    )
    return Samples(drawn_prompts, drawn_responses)


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
    """Lengths in tokens, below the context, to which some layer's attention is limited, or beyond
    which positions are embedded otherwise for the whole sequence."""
    text = config.get_text_config(decoder=True)
    context = getattr(text, "max_position_embeddings", None) or 1 << 30
    values = text.to_dict()
    found = [value for key, value in values.items() if _WINDOW.search(key)]
    if "longrope" in str(values.get("rope_parameters")):
        found += _values_of(values, "original_max_position_embeddings")
    return sorted({value for value in found if type(value) is int and 1 < value < context - 16})


def _values_of(values: Any, key: str) -> list[Any]:
    """All values of a key, however deep."""
    if not isinstance(values, dict):
        return []
    own = [values[key]] if key in values else []
    return own + [found for value in values.values() for found in _values_of(value, key)]


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
    return logits.log_softmax(dim=-1).gather(1, ids[0, len(prompt) :, None])[:, 0]


@torch.no_grad()
def own_log_probs_or_refuse(model: Any, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
    """`own_log_probs` without gradient. `SdarError` where even that fails or gives no numbers."""
    try:
        log_probs = own_log_probs(model, prompt, response)
        reason = None if bool(torch.isfinite(log_probs).all()) else "log-probs are not finite"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        reason = _in_words(error)
    if reason is not None:
        raise SdarError(
            f"policy.model: the own forward of this {model.config.model_type} model fails on plain "
            f"text ({reason}): correct its config.json, or take another model"
        )
    return log_probs


@torch.no_grad()
def allowed(model: Any, samples: Samples) -> float:
    """How far apart two ways to compute the same log-probs may be, in nats.

    Rounding grows with a model. What its own forward differs by when a sequence stands twice in a
    batch, with a token behind it, is rounding too; four times that, within limits.
    """
    usual, most = _rounding(model)
    device = next(model.parameters()).device
    apart = []
    for prompt, response in samples.first(len(PROMPT_TOKENS)):
        ids = torch.tensor([[*prompt, *response, prompt[0]]] * 2, device=device)
        logits = model(input_ids=ids, use_cache=False).logits[1, len(prompt) - 1 : -2]
        twice = logits.to(torch.float64).log_softmax(dim=-1)
        chosen = ids[0, len(prompt) : -1, None]
        apart.append(_most(twice.gather(1, chosen)[:, 0] - own_log_probs(model, prompt, response)))
    return min(most, max(usual, 4 * max(apart)))


def disagreement(model: Any, samples: Samples, apart_N: Tensor) -> str | None:
    """What is to be said of log-probs that lie so far apart (nats); None: that is rounding.

    In 16 bits single tokens round coarsely, so there the mean must be small as well.
    """
    usual, _ = _rounding(model)
    most, mean = _most(apart_N), float(apart_N.abs().mean())

    def within(limit: float) -> bool:
        return most <= limit and mean <= (limit if usual == FINE[0] else limit / 4)

    # A difference that is no number is within nothing.
    if within(usual) or within(allowed(model, samples)):
        return None
    return f"log-probs differ by {most:.2g} nats"


def _rounding(model: Any) -> tuple[float, float]:
    return FINE if next(model.parameters()).dtype in (torch.float32, torch.float64) else COARSE


def difference(model: Any, scorer: Any, samples: Samples, expected: list[Tensor]) -> str | None:
    """What the scorer, on the path that is set, computes unlike `expected`; None: nothing."""
    device = next(model.parameters()).device
    with torch.no_grad():
        scores_SR = scorer(samples.batch(device)).log_probs
    apart = [scores_SR[row, : len(own)] - own for row, own in enumerate(expected)]
    return disagreement(model, samples, torch.cat(apart)) or _gradient_difference(
        model, scorer, samples.first(len(PROMPT_TOKENS))
    )


def _gradient_difference(model: Any, scorer: Any, samples: Samples) -> str | None:
    some = _small_parameters(model)
    if not some:
        return None
    with torch.enable_grad():
        own = torch.stack([own_log_probs(model, *sample).sum() for sample in samples])
        weights = torch.arange(1, len(own) + 1, device=own.device).to(own.dtype)
        scores = scorer(samples.batch(own.device)).log_probs.sum(dim=1)
        wanted, found = (_gradients((weights * each).sum(), some) for each in (own, scores))
    scale = max(1.0, *(_most(gradient) for gradient in wanted))
    limit, _ = _rounding(model)
    apart = [_most(a - b) / scale for a, b in zip(wanted, found, strict=True)]
    if all(each <= limit for each in apart):
        return None
    return f"gradients differ by {max(apart):.2g} of the largest"


def _small_parameters(model: Any) -> list[Tensor]:
    """Some that are trained, the smallest first."""
    chosen: list[Tensor] = []
    values = 0
    for parameter in sorted(model.parameters(), key=lambda parameter: parameter.numel()):
        values += parameter.numel()
        if parameter.requires_grad and values and (values <= GRADIENT_VALUES or not chosen):
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
