"""How much arithmetic a pass is, by formula, and how much a device can do.

A parameter of a matrix costs 2 FLOPs a token in the forward pass and 4 more in the backward pass
(the usual 6 N D); causal attention over n tokens costs 2 n^2 Q a layer in the forward pass (two
products, half of each masked; Q width of the queries). The head works on response tokens alone.
Norms, rotations and softmax are left out; what is computed twice (activation checkpointing, chunks
of the head) counts once, as usual for a share of peak.
"""

import re

from sdar.policy.shape import ModelShape

TRAINING = 3
"""Forward and backward, in forward passes."""

PEAKS = {
    "B200": 2250.0,
    "H200": 989.0,
    "GH200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "A30": 165.0,
    "L4": 121.0,
}
"""TFLOP/s in bfloat16 on tensor cores, dense (without sparsity), as NVIDIA's data sheets say; the
first name that stands in a device's counts."""


def trunk_flops(shape: ModelShape, tokens: int, before: int = 0) -> float:
    """Of the layers' forward pass over `tokens` that follow `before` others in the cache."""
    matrices = 2 * shape.layers * shape.layer_matrices * tokens
    pairs = (before + tokens) ** 2 - before**2
    return matrices + 2 * shape.layers * shape.queries * pairs


def head_flops(shape: ModelShape, tokens: int) -> float:
    """Of the head at so many tokens."""
    return 2.0 * shape.head_parameters * tokens


def scoring_flops(shape: ModelShape, prompt: int, response: int) -> float:
    """One sample's forward pass: the response's last token predicts nothing and is not read."""
    return trunk_flops(shape, prompt + response - 1) + head_flops(shape, response)


def generation_flops(shape: ModelShape, prompt: int, response: int, *, shared: bool) -> float:
    """One sample's prefill and decoding; `shared`: its prompt was prefilled for another one."""
    read = 0.0 if shared else trunk_flops(shape, prompt)
    return read + trunk_flops(shape, response - 1, before=prompt) + head_flops(shape, response)


def peak_flops(device: str) -> float | None:
    """FLOP/s in bfloat16 of a GPU by its name; None for what is not in the table."""
    known = (tera for name, tera in PEAKS.items() if re.search(rf"\b{name}\b", device))
    tera = next(known, None)
    return None if tera is None else tera * 1e12
