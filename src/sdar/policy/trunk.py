"""The policy's final hidden states at chosen positions, without work whose result is not read.

Sequences are padded on the right and attention is causal, so that no mask is needed and padding
changes nothing. Below the last layer every position is computed; in the last layer a position that
is not read only has to give its key and value. That saves a policy of three layers about a quarter
of the work, and a deep one too little: there the model's own forward is used.

Shape suffixes: S sequences, T tokens of a padded sequence, Q chosen positions per sequence,
D hidden size, N attention heads, K key-value heads, H head size.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional as F

from sdar.policy.prefix_tree import PrefixTree
from sdar.policy.shared_attention import attend_reads, no_mask, rows_of, sharing, visible

SHORT_LAST_LAYER_BELOW = 8
"""Layers; from here on the model's own forward is used."""
_LAST_LAYER_PARTS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
FAMILIES = ("qwen2", "qwen3", "llama")
"""Of which the parts of the last layer are known."""

Pick = Callable[[Tensor], Tensor]
"""Of a layer's values at all tokens, those at the tokens that are read."""
Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""What attention gives to their queries, from keys, values and the scaling."""


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
        return _shortened(
            model,
            input_ids_ST,
            _positions(input_ids_ST),
            store,
            lambda values_STD: take(values_STD, positions_SQ),
            partial(_attend_at, positions_SQ),
        )
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
    model: Any,
    input_ids: Tensor,
    position_ids: Tensor,
    store: KeyValueStore | None,
    pick: Pick,
    attend: Attend,
) -> Tensor:
    """Final hidden states of the tokens that are picked: all layers, the last for them alone."""
    trunk = model.model
    hidden = trunk.embed_tokens(input_ids)
    rotation = trunk.rotary_emb(hidden, position_ids)
    for layer in trunk.layers[:-1]:
        hidden = layer(
            hidden,
            attention_mask=None,
            position_ids=position_ids,
            past_key_values=store,
            use_cache=store is not None,
            position_embeddings=rotation,
        )
    return trunk.norm(_last_layer(trunk.layers[-1], hidden, rotation, store, pick, attend))


def _last_layer(
    layer: Any,
    hidden: Tensor,
    rotation: tuple[Tensor, Tensor],
    store: KeyValueStore | None,
    pick: Pick,
    attend: Attend,
) -> Tensor:
    """The decoder layer with queries, output projection and MLP of the picked tokens only."""
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    cos, sin = rotation
    key = _rotate(_heads(attention, "k", normed), cos, sin)
    value = attention.v_proj(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    if store is not None:
        store.update(key, value, attention.layer_idx)

    query = _rotate(_heads(attention, "q", pick(normed)), pick(cos), pick(sin))
    picked = pick(hidden) + attention.o_proj(attend(query, key, value, attention.scaling))
    return picked + layer.mlp(layer.post_attention_layernorm(picked))


def _attend_at(
    positions_SQ: Tensor, query: Tensor, key: Tensor, value: Tensor, scaling: float
) -> Tensor:
    """Results `[S, Q, F]` of queries `[S, N, Q, H]` at these positions, heads side by side."""
    mixed = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=visible(positions_SQ, key.shape[2])[:, None],
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return mixed.transpose(1, 2).flatten(-2)


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
        hidden_1MD = _shortened(
            model,
            tree.ids_N[None],
            tree.depths_N[None],
            store,
            lambda values_1ND: values_1ND[:, tree.read_M],
            partial(attend_reads, tree),
        )
    return hidden_1MD[0]


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
    """Of every sequence the chosen positions; of one row, those of all sequences."""
    rows = torch.arange(hidden_STD.shape[0], device=hidden_STD.device)[:, None]
    return hidden_STD[rows, positions_SQ]


def _positions(input_ids_ST: Tensor) -> Tensor:
    return torch.arange(input_ids_ST.shape[1], device=input_ids_ST.device)[None]
