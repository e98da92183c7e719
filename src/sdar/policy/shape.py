"""The shape of a policy, from which its memory and arithmetic follow. No weights, no torch.

Read from the Hugging Face `config.json` of a folder or of the hub's cache. For the models of the
SDAR paper's experiments known_shapes.json has the published one, so that a login node without
network or cache can compute with it.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sdar.config import ExperimentConfig
from sdar.config.checks import HUB_NAME
from sdar.config.models import TinyPolicyConfig
from sdar.files.paths import model_folder

FAMILIES = ("llama", "qwen2", "qwen3")
_KNOWN = Path(__file__).with_name("known_shapes.json")


@dataclass(frozen=True)
class ModelShape:
    """A decoder of the Llama family: gated MLP, grouped-query attention, RMS norms."""

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    """Embedding and head are one weight."""
    qkv_bias: bool
    """Biases of the projections to queries, keys and values."""
    output_bias: bool
    """Bias of the attention's output projection."""
    mlp_bias: bool
    qk_norm: bool
    """RMS norms of each head's queries and keys (Qwen3)."""

    @property
    def queries(self) -> int:
        """Width of all heads' queries."""
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        """Width of all heads' keys; that of their values is the same."""
        return self.kv_heads * self.head_size

    @property
    def layer_matrices(self) -> int:
        """Parameters of a layer's matrices."""
        attention = self.hidden * (2 * self.queries + 2 * self.keys)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer, with biases and norms."""
        vectors = 2 * self.hidden
        if self.qkv_bias:
            vectors += self.queries + 2 * self.keys
        if self.output_bias:
            vectors += self.hidden
        if self.mlp_bias:
            vectors += 2 * self.intermediate + self.hidden
        if self.qk_norm:
            vectors += 2 * self.head_size
        return self.layer_matrices + vectors

    @property
    def head_parameters(self) -> int:
        """Parameters of the head; the embedding has as many, and is the same weight where tied."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters, a tied weight once."""
        ends = self.head_parameters * (1 if self.tied else 2)
        return self.layers * self.layer_parameters + ends + self.hidden

    def adapter_parameters(self, rank: int, targets: tuple[str, ...] | None = None) -> int:
        """Parameters of LoRA adapters on `targets` (linear layers; None: on all but the head)."""
        hidden, queries, keys, inner = self.hidden, self.queries, self.keys, self.intermediate
        ends = {
            "q_proj": hidden + queries,
            "k_proj": hidden + keys,
            "v_proj": hidden + keys,
            "o_proj": queries + hidden,
            "gate_proj": hidden + inner,
            "up_proj": hidden + inner,
            "down_proj": inner + hidden,
        }
        chosen = ends if targets is None else {name: ends.get(name, 0) for name in targets}
        return self.layers * rank * sum(chosen.values())


def shape_of_config(values: dict[str, Any]) -> ModelShape | None:
    """From the values of a Hugging Face `config.json`; None for a family not in `FAMILIES`."""
    family = values.get("model_type")
    if family not in FAMILIES:
        return None
    heads = values["num_attention_heads"]
    attention_bias = bool(values.get("attention_bias", False))
    return ModelShape(
        family=family,
        layers=values["num_hidden_layers"],
        hidden=values["hidden_size"],
        intermediate=values["intermediate_size"],
        heads=heads,
        kv_heads=values.get("num_key_value_heads") or heads,
        head_size=values.get("head_dim")
        or (128 if family == "qwen3" else values["hidden_size"] // heads),
        vocabulary=values["vocab_size"],
        tied=bool(values.get("tie_word_embeddings", False)),
        qkv_bias=family == "qwen2" or attention_bias,
        output_bias=family != "qwen2" and attention_bias,
        mlp_bias=family == "llama" and bool(values.get("mlp_bias", False)),
        qk_norm=family == "qwen3",
    )


def shape_of_tiny(tiny: TinyPolicyConfig) -> ModelShape:
    """The shape of the tiny policy; its tokenizer may use less than the vocabulary allows."""
    return ModelShape(
        family="qwen3",
        layers=tiny.layers,
        hidden=tiny.hidden,
        intermediate=tiny.intermediate,
        heads=tiny.heads,
        kv_heads=tiny.kv_heads,
        head_size=tiny.hidden // tiny.heads,
        vocabulary=-(-tiny.vocabulary // 16) * 16,
        tied=True,
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        qk_norm=True,
    )


@cache
def known_configs() -> dict[str, dict[str, Any]]:
    """`config.json` (what decides the shape) of models on the hub, by name."""
    return json.loads(_KNOWN.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def shape_of_policy(config: ExperimentConfig) -> ModelShape | None:
    """The shape of `policy.model`; None where that takes a download, or its family is not in
    `FAMILIES`."""
    model = config.policy.model
    if model == "tiny":
        return shape_of_tiny(config.policy.tiny)
    folder = model_folder(model)
    if folder is not None:
        file = folder / "config.json"
    else:
        if model in known_configs():
            return shape_of_config(known_configs()[model])
        if not HUB_NAME.fullmatch(model):
            return None
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(model, "config.json")
        if not isinstance(cached, str):
            return None
        file = Path(cached)
    try:
        return shape_of_config(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError):
        return None  # loading the policy says what is wrong with it
