"""A model's shape, and its number of parameters: against models built without memory."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sdar.config import parse_config
from sdar.policy.shape import ModelShape, known_configs, shape_of_config, shape_of_policy

SMALL = {
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
}
PUBLISHED = {
    "Qwen/Qwen2.5-0.5B-Instruct": 0.49,
    "Qwen/Qwen2.5-1.5B-Instruct": 1.54,
    "Qwen/Qwen2.5-3B-Instruct": 3.09,
    "Qwen/Qwen2.5-7B-Instruct": 7.62,
    "Qwen/Qwen3-0.6B": 0.60,
    "Qwen/Qwen3-1.7B": 1.72,
}
"""Billions, as the models' pages say (Qwen3-1.7B: 1.7)."""


def counted(values: dict[str, Any]) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values))
    return sum(parameter.numel() for parameter in model.parameters())


def shape(values: dict[str, Any]) -> ModelShape:
    known = shape_of_config(values)
    assert known is not None
    return known


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "family",
    [
        {"model_type": "qwen2", "num_key_value_heads": 2},
        {"model_type": "qwen3", "num_key_value_heads": 3, "head_dim": 16},
        {"model_type": "qwen3", "num_key_value_heads": 3, "head_dim": 16, "attention_bias": True},
        {"model_type": "llama", "num_key_value_heads": 6},
        {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    ],
    ids=["qwen2", "qwen3", "qwen3-bias", "llama", "llama-bias"],
)
def test_parameters_are_those_of_the_model(family: dict[str, Any], tied: bool) -> None:
    values = {**SMALL, **family, "tie_word_embeddings": tied}
    assert shape(values).parameters == counted(values)


@pytest.mark.parametrize("name", sorted(known_configs()))
def test_known_models_have_the_published_size(name: str) -> None:
    known = shape(known_configs()[name])
    assert known.parameters == counted(known_configs()[name])
    assert round(known.parameters / 1e9, 2) == PUBLISHED[name]


@pytest.mark.parametrize("targets", [None, ("q_proj", "v_proj", "down_proj")])
def test_adapters(targets: tuple[str, ...] | None) -> None:
    values = {**SMALL, "model_type": "qwen2", "num_key_value_heads": 2}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values))
    expected = sum(
        5 * (layer.in_features + layer.out_features)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
        and name != "lm_head"
        and (targets is None or name.rsplit(".", 1)[-1] in targets)
    )
    assert shape(values).adapter_parameters(5, targets) == expected


def policy_config(model: str) -> Any:
    return parse_config({"policy": {"model": model}, "warm_start": {"enabled": False}})


def test_shape_of_a_folder(tmp_path: Path) -> None:
    values = {**SMALL, "model_type": "llama", "num_key_value_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert shape_of_policy(policy_config(str(tmp_path))) == shape(values)


def test_shape_of_the_tiny_policy_is_that_of_what_is_made() -> None:
    from sdar.policy.tiny import make_tiny_policy
    from sdar.policy.tokenizer import train_tokenizer

    config = parse_config({"policy": {"tiny": {"vocabulary": 310, "layers": 2}}})
    tokenizer = train_tokenizer(["go to shelf 1. " * 40 + "take egg 2"], 310, 512)
    model = make_tiny_policy(config.policy.tiny, tokenizer, seed=0)
    known = shape_of_policy(config)
    assert known is not None
    # The tokenizer found less to say than the vocabulary allows.
    unused = (known.vocabulary - model.config.vocab_size) * known.hidden
    assert unused >= 0
    assert known.parameters - unused == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("model", ["nobody/never-published", "nowhere/at/all"])
def test_an_unknown_shape_is_none(model: str) -> None:
    assert shape_of_policy(policy_config(model)) is None


def test_an_unknown_family_is_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    assert shape_of_policy(policy_config(str(tmp_path))) is None
