"""May tokens that sequences begin with in common be computed once? Tried when a policy is loaded.

A few sequences that begin alike go through the scorer as a tree, and one by one through the model's
own forward, as in `probe`. A model whose layers pass something on from token to token by other
means than causal attention (a state, a mask of their own) is found out here.
"""

from collections.abc import Callable
from typing import Any

import torch

from sdar.policy.paths import scoring_path, set_sharing
from sdar.policy.probe import Samples, as_in_use, difference, own_log_probs, plain_ids, windows
from sdar.policy.shared_attention import STANDARD, configs_of

PROMPT_TOKENS = 9


def find_sharing(
    model: Any, scorer_of: Callable[[Any], Any], longest: int | None = None
) -> str | None:
    """Keep whether the model's scorer and engine compute common beginnings once; returns what is
    against it, None: nothing.

    `scorer_of` makes a `PolicyScorer` of the model, whose path has been found; `longest` is the
    most tokens of a prompt with its response, where it is known.
    """
    against = _unfit(model, longest)
    if against is None:
        set_sharing(model, True)
        samples = alike_samples(model)
        try:
            with as_in_use(model):
                with torch.no_grad():
                    expected = [own_log_probs(model, *sample) for sample in samples]
                against = difference(model, scorer_of(model), samples, expected)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a family's code raises where it does not fit
            against = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    set_sharing(model, against is None)
    return against


def _unfit(model: Any, longest: int | None) -> str | None:
    path = scoring_path(model)
    if path == "single":
        return f"it is scored on the {path} path"
    others = {config._attn_implementation for config in configs_of(model)} - {STANDARD}
    if others:
        return f"its attention is {', '.join(sorted(map(str, others)))}, not {STANDARD}"
    # A tree's rows attend to all of their path.
    reached = [window for window in windows(model.config) if longest is None or window < longest]
    return f"some layer attends to {reached[0]} tokens only" if reached else None


def alike_samples(model: Any) -> Samples:
    """Prompts and responses that share all, much, little or nothing of their beginnings; one pair
    is the same, and one response begins another."""
    ids = plain_ids(model, 4 * PROMPT_TOKENS)
    first, second, third, rest = (ids[i::4] for i in range(4))
    prompts = [first, first, first, [*first[:6], *second], [*first[:1], *third], second, second]
    counts = (slice(4), slice(1, 6), slice(2), slice(5), slice(2, 5), slice(3), slice(3))
    return Samples(prompts, [rest[count] for count in counts], share=True)
