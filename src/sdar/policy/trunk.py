"""The policy's final hidden states at chosen positions, without work whose result is not read.

Sequences are padded on the right and attention is causal, so that no mask is needed and padding
changes nothing. Below the last layer every position is computed; in the last layer a position that
is not read only has to give its key and value. That saves a policy of three layers about a quarter
of the work, and a deep one too little: there the model's own forward is used.

Shape suffixes: S sequences, T tokens of a padded sequence, Q chosen positions per sequence,
D hidden size, N attention heads, K key-value heads, H head size.
"""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional as F

from sdar.policy.prefix_tree import PrefixTree
from sdar.policy.shared_attention import no_mask, rows_of, sharing, visible

SHORT_LAST_LAYER_BELOW = 8
"""Layers; from here on the model's own forward is used."""
_LAST_LAYER_PARTS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
FAMILIES = ("qwen2", "qwen3", "llama")
"""Of which the parts of the last layer are known."""


class KeyValueStore(Protocol):
    """What a forward pass may keep keys and values `[S, K, T, H]` of a layer in."""

    def update(self, key: Tensor, value: Tensor, layer: int, *rest: Any) -> tuple[Tensor, Tensor]:
        """Keep them; return the keys and values that attention sees."""
        ...


def hidden_states_at(
    model: Any, input_ids_ST: Tensor, positions_SQ: Tensor, store: KeyValueStore | None = None
) -> Tensor:
    """Final (normalised) hidden states `[S, Q, D]` at `positions_SQ`, ready for the head.

    `input_ids_ST` is padded on the right with any valid id. Positions may be repeated to fill
    rows of different length.
    """
    if shortens_last_layer(model):
        return _shortened(model.model, input_ids_ST, positions_SQ, store)
    hidden_STD = model.model(
        input_ids=input_ids_ST,
        position_ids=_positions(input_ids_ST),
        past_key_values=store,
        use_cache=store is not None,
    ).last_hidden_state
    return take(hidden_STD, positions_SQ)


def shortens_last_layer(model: Any) -> bool:
    """Whether the shortened last layer applies to this model and is worth it."""
    config = model.config
    return (
        config.model_type in FAMILIES
        and config.num_hidden_layers < SHORT_LAST_LAYER_BELOW
        and "sliding_attention" not in (getattr(config, "layer_types", None) or ())
        and all(hasattr(model.model.layers[-1], part) for part in _LAST_LAYER_PARTS)
        # A sharded layer has its weights only within its own forward.
        and not isinstance(model.model.layers[-1], FSDPModule)
    )


def _shortened(
    trunk: Any, input_ids_ST: Tensor, positions_SQ: Tensor, store: KeyValueStore | None
) -> Tensor:
    position_ids = _positions(input_ids_ST)
    hidden_STD = trunk.embed_tokens(input_ids_ST)
    rotation = trunk.rotary_emb(hidden_STD, position_ids)
    for layer in trunk.layers[:-1]:
        hidden_STD = layer(
            hidden_STD,
            attention_mask=None,
            position_ids=position_ids,
            past_key_values=store,
            use_cache=store is not None,
            position_embeddings=rotation,
        )
    hidden_SQD = _last_layer(trunk.layers[-1], hidden_STD, positions_SQ, rotation, store)
    return trunk.norm(hidden_SQD)


class _OfSequences:
    """Keeps of a tree's keys and values `[1, K, N, H]` those of every sequence in a store."""

    def __init__(self, store: KeyValueStore, tree: PrefixTree) -> None:
        self._store = store
        self._nodes_ST = tree.nodes_UT[tree.row_S]

    def __getattr__(self, name: str) -> Any:
        """What else some model's forward asks of a cache."""
        return getattr(self._store, name)

    def update(self, key: Tensor, value: Tensor, layer: int, *rest: Any) -> tuple[Tensor, Tensor]:
        keys, values = (rows_of(each, self._nodes_ST) for each in (key, value))
        self._store.update(keys, values, layer, *rest)
        return key, value


def hidden_states_of_tree(
    model: Any, tree: PrefixTree, store: KeyValueStore | None = None
) -> Tensor:
    """Final hidden states `[M, D]` of the nodes that are read, ready for the head. `store` gets
    keys and values of each sequence, as from `hidden_states_at`."""
    if store is not None:
        store = _OfSequences(store, tree)
    with sharing(model, tree):
        if not shortens_last_layer(model):
            hidden_1ND = model.model(
                input_ids=tree.ids_N[None],
                position_ids=tree.depths_N[None],
                attention_mask=no_mask(tree),
                past_key_values=store,
                use_cache=store is not None,
            ).last_hidden_state
            return hidden_1ND[0][tree.read_M]
        trunk = model.model
        hidden_1ND = trunk.embed_tokens(tree.ids_N[None])
        rotation = trunk.rotary_emb(hidden_1ND, tree.depths_N[None])
        for layer in trunk.layers[:-1]:
            hidden_1ND = layer(
                hidden_1ND,
                attention_mask=None,
                position_ids=tree.depths_N[None],
                past_key_values=store,
                use_cache=store is not None,
                position_embeddings=rotation,
            )
    return trunk.norm(_last_layer_of_tree(trunk.layers[-1], hidden_1ND, tree, rotation, store))


def _last_layer_of_tree(
    layer: Any,
    hidden_1ND: Tensor,
    tree: PrefixTree,
    rotation: tuple[Tensor, Tensor],
    store: KeyValueStore | None,
) -> Tensor:
    """As `_last_layer`, `[M, D]` of the nodes that are read."""
    attention = layer.self_attn
    normed_1ND = layer.input_layernorm(hidden_1ND)
    cos, sin = rotation
    key = _rotate(_heads(attention, "k", normed_1ND), cos, sin)
    value = attention.v_proj(normed_1ND).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    if store is not None:
        store.update(key, value, attention.layer_idx)

    query = _heads(attention, "q", normed_1ND[:, tree.read_M])
    query = _rotate(query, cos[:, tree.read_M], sin[:, tree.read_M])
    mixed = F.scaled_dot_product_attention(
        rows_of(query, tree.reads_UQ),
        rows_of(key, tree.nodes_UT),
        rows_of(value, tree.nodes_UT),
        attn_mask=visible(tree.read_depths_UQ, tree.nodes_UT.shape[1])[:, None],
        scale=attention.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    mixed_MF = mixed.transpose(1, 2).flatten(2).flatten(0, 1)[tree.read_places_M]
    hidden_MD = hidden_1ND[0, tree.read_M] + attention.o_proj(mixed_MF)
    return hidden_MD + layer.mlp(layer.post_attention_layernorm(hidden_MD))


def _last_layer(
    layer: Any,
    hidden_STD: Tensor,
    positions_SQ: Tensor,
    rotation: tuple[Tensor, Tensor],
    store: KeyValueStore | None,
) -> Tensor:
    """The decoder layer with queries, output projection and MLP at the chosen positions only."""
    attention = layer.self_attn
    normed_STD = layer.input_layernorm(hidden_STD)
    cos, sin = rotation
    key = _rotate(_heads(attention, "k", normed_STD), cos, sin)
    value = attention.v_proj(normed_STD).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    if store is not None:
        store.update(key, value, attention.layer_idx)

    query = _heads(attention, "q", take(normed_STD, positions_SQ))
    query = _rotate(query, cos[0][positions_SQ], sin[0][positions_SQ])
    visible_SQT = positions_SQ[..., None] >= torch.arange(
        hidden_STD.shape[1], device=hidden_STD.device
    )
    mixed = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=visible_SQT[:, None],
        scale=attention.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    hidden_SQD = take(hidden_STD, positions_SQ) + attention.o_proj(
        mixed.transpose(1, 2).flatten(-2)
    )
    return hidden_SQD + layer.mlp(layer.post_attention_layernorm(hidden_SQD))


def _heads(attention: Any, which: str, normed: Tensor) -> Tensor:
    """Project to queries or keys, `[S, heads, positions, H]`, with Qwen3's per-head norm."""
    projected = getattr(attention, f"{which}_proj")(normed).unflatten(-1, (-1, attention.head_dim))
    norm = getattr(attention, f"{which}_norm", None)
    return (projected if norm is None else norm(projected)).transpose(1, 2)


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding, in the half-split layout of the Llama family."""
    first, second = heads.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return heads * cos[:, None] + turned * sin[:, None]


def take(hidden_STD: Tensor, positions_SQ: Tensor) -> Tensor:
    """Of every sequence the chosen positions."""
    rows = torch.arange(hidden_STD.shape[0], device=hidden_STD.device)[:, None]
    return hidden_STD[rows, positions_SQ]


def _positions(input_ids_ST: Tensor) -> Tensor:
    return torch.arange(input_ids_ST.shape[1], device=input_ids_ST.device)[None]
