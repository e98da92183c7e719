"""Attention of a tree's nodes, each of which sees its own path, in any model of transformers.

The model is run on one row of nodes. All it does to a token alone (projections, norms, MLP,
experts) it does once per node. Here, where tokens meet, keys, values and queries are laid out
as the tree's rows, which attend causally as they would have by themselves, and each node takes its
result from the row where it is met first.

Shape suffixes: N nodes, U rows, T tokens of a padded row, A query heads, K key-value heads, H head
size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface

from sdar.policy.prefix_tree import PrefixTree, RowGroup

NAME = "sdar_shared"
"""Of this attention in transformers."""
STANDARD = "sdpa"
"""The attention in whose place it stands."""
_tree: ContextVar[PrefixTree | None] = ContextVar("tree", default=None)


def tree_in_use() -> PrefixTree | None:
    """The tree whose nodes are being computed."""
    return _tree.get()


@contextmanager
def sharing(model: Any, tree: PrefixTree | None) -> Iterator[None]:
    """A block in which the model's attention is that of the tree's nodes; None: its own."""
    if tree is None:
        yield
        return
    configs = configs_of(model)
    token = _tree.set(tree)
    try:
        for config in configs:
            config._attn_implementation = NAME
        yield
    finally:
        for config in configs:
            config._attn_implementation = STANDARD
        _tree.reset(token)


def configs_of(model: Any) -> list[Any]:
    """Every configuration from which a module of the model reads its attention."""
    every = (module.config for module in model.modules() if hasattr(module, "config"))
    return list({id(config): config for config in every}.values())


def no_mask(tree: PrefixTree) -> Tensor:
    """What a model takes for a mask that is ready, so that it makes none; `attend` needs none."""
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=tree.ids_N.device)


def rows_of(values_1XNH: Tensor, nodes_UT: Tensor) -> Tensor:
    """`[U, X, T, H]` of `[1, X, N, H]`: each row's path."""
    _, heads, nodes, size = values_1XNH.shape
    values_NF = values_1XNH[0].transpose(0, 1).reshape(nodes, heads * size)
    # As an embedding: the gradients of a node's copies are added in order, and quickly.
    rows_UTF = F.embedding(nodes_UT, values_NF)
    return rows_UTF.unflatten(-1, (heads, size)).transpose(1, 2)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Called by transformers with queries `[1, A, N, H]`, keys and values `[1, K, N, H]` of the
    nodes; returns `[1, N, A, H]`. Raises `ValueError` for what is more than causal attention."""
    tree = _tree.get()
    if tree is None:
        raise ValueError("attention of shared tokens outside of a tree")
    more = [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    if more or dropout or not getattr(module, "is_causal", True):
        raise ValueError(f"attention with {', '.join(more) or 'dropout, or not causal'}")
    flat = [
        _attend_together(group, query, key, value, scaling).transpose(1, 2).flatten(2).flatten(0, 1)
        for group in tree.groups
    ]
    nodes_NF = F.embedding(tree.places_N, flat[0] if len(flat) == 1 else torch.cat(flat))
    return nodes_NF.view(1, len(tree.places_N), query.shape[1], -1), None


def _attend_together(
    group: RowGroup, query: Tensor, key: Tensor, value: Tensor, scaling: float | None
) -> Tensor:
    """Results `[G, A, B, H]` of a group's nodes that attend."""
    paths_GT, mask = group.paths_GT, None
    if group.depths_GB is not None:
        mask = visible(group.depths_GB, paths_GT.shape[1])[:, None]
    return F.scaled_dot_product_attention(
        rows_of(query, group.attending_GB),
        rows_of(key, paths_GT),
        rows_of(value, paths_GT),
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def attend_reads(
    tree: PrefixTree, query: Tensor, key: Tensor, value: Tensor, scaling: float
) -> Tensor:
    """Results `[1, M, F]` of queries `[1, A, M, H]` of the nodes that are read alone."""
    mixed = F.scaled_dot_product_attention(
        rows_of(query, tree.reads_UQ),
        rows_of(key, tree.nodes_UT),
        rows_of(value, tree.nodes_UT),
        attn_mask=visible(tree.read_depths_UQ, tree.nodes_UT.shape[1])[:, None],
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return mixed.transpose(1, 2).flatten(2).flatten(0, 1)[None, tree.read_places_M]


def visible(depths_UQ: Tensor, width: int) -> Tensor:
    """`[U, Q, T]`: which of its row's `width` tokens a token at each depth sees."""
    return depths_UQ[..., None] >= torch.arange(width, device=depths_UQ.device)


AttentionInterface.register(NAME, attend)
