"""Bytes of what a pass computes: kept for the backward pass, or alive for a moment.

For the decoder layers of transformers' Llama, Qwen2 and Qwen3 with SDPA attention (which keeps its
output and one number per head and token, never [T, T]) and the chunked head of `policy.log_probs`.
Counted from what the layers save, as tests/integration/test_memory_measured.py measures it.
"""

from dataclasses import dataclass

from sdar.policy.shape import ModelShape


@dataclass(frozen=True)
class Precision:
    """Bytes per number, by where it is."""

    stream: int
    """Between layers, and results of norms."""
    compute: int
    """In linear layers and in attention."""

    @property
    def casts(self) -> bool:
        """Whether a linear layer's input and weight are converted first (autocast)."""
        return self.stream != self.compute


FLOAT32 = Precision(4, 4)
AUTOCAST = Precision(4, 2)
"""Weights in float32, computing in bfloat16: one process, or ranks with copies."""
BFLOAT16 = Precision(2, 2)
"""Weights already gathered in bfloat16 (FSDP2), or a copy in it."""

LOGIT_TRAINING = 20
"""Bytes per logit of a chunk in the head's backward pass: log-softmax, exponential, gradients."""
LOGIT_SCORING = 18
"""Without gradient: logits, their log-softmax and exponential (entropy), a copy in the type
computed in."""
LOGIT_DIVERGENCE = 12
"""Further bytes where the teacher's whole distribution is compared."""
LOGIT_SAMPLING = 24
"""Per response while the engine samples: probabilities and their sum in float64."""


def kept_by_layer(shape: ModelShape, precision: Precision, adapter_rank: int = 0) -> int:
    """Bytes per token that one layer keeps for the backward pass."""
    stream, compute = precision.stream, precision.compute
    # Each norm keeps its input in float32 and what it scales; a linear layer its input, which q,
    # k and v share, and gate and up, unless each converts it anew.
    norms = 2 * (4 + stream) * shape.hidden
    inputs = (5 if precision.casts else 2) * compute * shape.hidden
    attention = 2 * (shape.queries + shape.keys) * compute
    if shape.qk_norm:
        attention += (shape.queries + shape.keys) * (4 + compute) + 4 * (
            shape.heads + shape.kv_heads
        )
    mlp = 4 * compute * shape.intermediate
    single = 4 * (2 + shape.heads)
    adapters = 7 * compute * adapter_rank
    return norms + inputs + attention + mlp + single + adapters


def kept_by_final_norm(shape: ModelShape, precision: Precision) -> int:
    """Bytes per token kept for the backward pass."""
    return (4 + 2 * precision.stream) * shape.hidden


def passing(shape: ModelShape, precision: Precision) -> int:
    """Bytes per token alive at once in a pass without gradient: within an MLP."""
    return 3 * precision.compute * shape.intermediate + 4 * precision.stream * shape.hidden


def passing_backward(shape: ModelShape, precision: Precision) -> int:
    """Bytes per token of gradients alive at once: within an MLP."""
    return 3 * precision.compute * shape.intermediate + 2 * precision.stream * shape.hidden


def head_gradient(shape: ModelShape, precision: Precision) -> int:
    """Bytes of the head's gradient while it is computed: of one chunk, its sum, and converted."""
    return shape.head_parameters * (2 * precision.compute + (4 if precision.casts else 0))


def cache_of_token(shape: ModelShape, precision: Precision) -> int:
    """Bytes per token in the engine's cache, over all layers, in the type attention computes in."""
    return shape.layers * shape.keys * 2 * precision.compute


def chunk_logits(shape: ModelShape, response_tokens: int, most: int) -> int:
    """Logits that exist at once: a chunk's, or those of all response tokens if fewer."""
    return shape.vocabulary * min(response_tokens, max(1, most // shape.vocabulary))


def as_precision(dtype: str, sharded: bool) -> Precision:
    """How the trainer computes with `policy.dtype`."""
    if dtype == "float32":
        return FLOAT32
    return BFLOAT16 if sharded else AUTOCAST
