"""FLOPs by formula against torch's own count of what a model does."""

import pytest
import torch
from arithmetic import (
    generation_flops,
    head_flops,
    peak_flops,
    scoring_flops,
    trunk_flops,
)
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from sdar.policy.shape import ModelShape, shape_of_config

VALUES = {
    "model_type": "qwen3",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "tie_word_embeddings": True,
}


def shape() -> ModelShape:
    known = shape_of_config(VALUES)
    assert known is not None
    return known


def test_a_forward_pass_is_what_torch_counts() -> None:
    tokens = 24
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**VALUES), attn_implementation="eager"
        )
        ids = torch.zeros(1, tokens, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids)
    # Eager attention computes the masked half as well.
    masked = 2 * 3 * shape().queries * tokens**2
    counted = trunk_flops(shape(), tokens) + masked + head_flops(shape(), tokens)
    # The angles of positions, which some versions get from a product, belong to no layer.
    of_angles = [by for name, by in counter.get_flop_counts().items() if "rotary" in name]
    angles = sum(sum(by.values()) for by in of_angles)
    assert counted == counter.get_total_flops() - angles


def test_six_a_parameter_and_token() -> None:
    """Where attention is negligible, training costs 6 N D."""
    wide = shape()
    tokens = 4
    update = 3 * (trunk_flops(wide, tokens) + head_flops(wide, tokens))
    matrices = wide.layers * wide.layer_matrices + wide.head_parameters
    assert update == pytest.approx(6 * matrices * tokens, rel=0.02)


def test_decoding_does_the_same_products_as_scoring() -> None:
    scored = scoring_flops(shape(), 50, 10)
    assert generation_flops(shape(), 50, 10, shared=False) == pytest.approx(scored, rel=1e-12)
    saved = scored - generation_flops(shape(), 50, 10, shared=True)
    assert saved == pytest.approx(trunk_flops(shape(), 50), rel=1e-12)


@pytest.mark.parametrize(
    ("device", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
    ],
)
def test_peaks_by_the_names_torch_gives(device: str, tera: float) -> None:
    assert peak_flops(device) == tera * 1e12


@pytest.mark.parametrize("device", ["AMD EPYC 7763 64-Core Processor", "NVIDIA L40"])
def test_no_peak_is_made_up(device: str) -> None:
    assert peak_flops(device) is None
