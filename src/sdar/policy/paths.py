"""The paths by which a policy's logits at chosen positions are computed.

`fast`: the final hidden states of the trunk, then the head on chunks of them (`trunk`). It holds
where logits are `lm_head(hidden)` and nothing more. `general`: the model's own forward, for all
sequences of a batch together. `single`: the same for one unpadded sequence after the other. Which
of them a model takes is found by trial (`probe`), and kept with the model.

Both ways end in features `[S, Q, F]` and a head that makes logits of them; of the model's own
forward the features are the logits, and the head changes nothing.

Shape suffixes: S sequences, T tokens of a padded sequence, Q chosen positions per sequence,
F features, V vocabulary.
"""

import inspect
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional as F

from sdar.policy.prefix_tree import PrefixTree
from sdar.policy.shared_attention import no_mask, sharing
from sdar.policy.trunk import hidden_states_at, hidden_states_of_tree, take

ScoringPath = Literal["fast", "general", "single"]
SCORING_PATHS: tuple[ScoringPath, ...] = ("fast", "general", "single")
"""Quickest first."""
CHUNK_LOGITS = 1 << 25
"""Logits of a chunk: 128 MiB of float32, some five of which exist at once in the backward pass."""
_KEPT = "_sdar_scoring_path"
_SHARES = "_sdar_shares_prefixes"
_FP32_HEAD = "_sdar_fp32_head"


def scoring_path(model: Any) -> ScoringPath:
    """The path that was found for the model; `fast` before."""
    return getattr(model, _KEPT, "fast")


def set_scoring_path(model: Any, path: ScoringPath | None) -> None:
    """Keep what was found, also in copies of the model; None: nothing was."""
    if path is None:
        model.__dict__.pop(_KEPT, None)
    else:
        setattr(model, _KEPT, path)


def has_scoring_path(model: Any) -> bool:
    """Whether one was found."""
    return hasattr(model, _KEPT)


def vocabulary_of(model: Any) -> int:
    """Width of the logits, also where a model for text and images has it one level down."""
    return int(model.config.get_text_config(decoder=True).vocab_size)


def has_fast_parts(model: Any) -> bool:
    """Whether trunk and head have the names that the fast path knows."""
    return hasattr(model, "model") and isinstance(getattr(model, "lm_head", None), nn.Module)


def head_of(model: Any) -> nn.Module:
    """What makes logits of the features."""
    return model.lm_head if scoring_path(model) == "fast" else nn.Identity()


def set_fp32_head(model: Any, wanted: bool) -> None:
    """Whether the model's logits are computed in float32 (`policy.fp32_head`); kept with the model,
    for its scorer and its engine."""
    setattr(model, _FP32_HEAD, wanted)


def has_fp32_head(model: Any) -> bool:
    """What was set; not before."""
    return bool(getattr(model, _FP32_HEAD, False))


def set_sharing(model: Any, wanted: bool) -> None:
    """Whether tokens that several sequences of a pass begin with are computed once
    (`policy.share_prefixes`); kept with the model and its copies."""
    setattr(model, _SHARES, wanted)


def shares_prefixes(model: Any) -> bool:
    """What was set; not before."""
    return bool(getattr(model, _SHARES, False))


def apply_head(model: Any, head: nn.Module, features: Tensor) -> Tensor:
    """Logits of features by the model's head or a copy of it, as scorer and engine compute them.

    With `policy.fp32_head` the product is float32's also under autocast and with weights in
    bfloat16; logits of the model's own forward (`Identity`) are what they are.
    """
    if not has_fp32_head(model) or not isinstance(head, nn.Linear):
        return head(features)  # type: ignore[no-any-return]
    with torch.autocast(features.device.type, enabled=False):
        bias = None if head.bias is None else head.bias.float()
        return F.linear(features.float(), head.weight.float(), bias)


def features_at(model: Any, input_ids_ST: Tensor, positions_SQ: Tensor) -> Tensor:
    """Features `[S, Q, F]` at `positions_SQ`; sequences are padded on the right with any valid id.

    A sequence's last position that is read is taken for its end.
    """
    path = scoring_path(model)
    if path == "fast":
        return hidden_states_at(model, input_ids_ST, positions_SQ)
    if path == "general":
        return torch.cat(
            [
                _own_logits(model, ids, positions)
                for ids, positions in _chunks(model, input_ids_ST, positions_SQ)
            ]
        )
    return torch.cat(
        [
            _own_logits(model, ids[None, : int(positions.max()) + 1], positions[None])
            for ids, positions in zip(input_ids_ST, positions_SQ, strict=True)
        ]
    )


def features_of_tree(model: Any, tree: PrefixTree) -> Tensor | None:
    """Features `[M, F]` of a tree's nodes that are read; None where they are logits and too many:
    what they are read for has to be scored row by row."""
    if scoring_path(model) == "fast":
        return hidden_states_of_tree(model, tree)
    if len(tree.read_M) * vocabulary_of(model) > CHUNK_LOGITS:
        return None
    options = {"logits_to_keep": tree.read_M} if takes(model, "logits_to_keep") else {}
    with sharing(model, tree):
        (logits_NV,) = model(
            input_ids=tree.ids_N[None],
            position_ids=tree.depths_N[None],
            attention_mask=no_mask(tree),
            use_cache=False,
            **options,
        ).logits
    return logits_NV if options else logits_NV[tree.read_M]


def _chunks(model: Any, input_ids_ST: Tensor, positions_SQ: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Rows whose logits are at most a chunk. Ranks that share weights make equally many passes,
    so there all rows go together."""
    rows = len(input_ids_ST)
    if not any(isinstance(module, FSDPModule) for module in model.modules()):
        width = input_ids_ST.shape[1] - int(positions_SQ.min())
        rows = max(1, CHUNK_LOGITS // (width * vocabulary_of(model)))
    return list(zip(input_ids_ST.split(rows), positions_SQ.split(rows), strict=True))


def _own_logits(model: Any, input_ids_ST: Tensor, positions_SQ: Tensor) -> Tensor:
    """Logits `[S, Q, V]` of the model's own forward, computed only from the first position on that
    is read, where the model can."""
    first = int(positions_SQ.min())
    options: dict[str, Any] = {}
    if takes(model, "logits_to_keep"):
        options["logits_to_keep"] = input_ids_ST.shape[1] - first
    logits = model(input_ids=input_ids_ST, use_cache=False, **options).logits
    return take(logits, positions_SQ - (input_ids_ST.shape[1] - logits.shape[1]))


def takes(model: Any, argument: str) -> bool:
    """Whether the model's forward has this argument."""
    return argument in inspect.signature(model.forward).parameters
