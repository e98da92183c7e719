"""The reference in the type that is computed in: the same bits, no weight converted in a pass."""

import copy
from typing import Any

import pytest
import torch
from decode_ops import random_model
from measuring import OperationCounts
from model_families import make_model

from sdar.policy.log_probs import PolicyScorer, Scores, score_responses
from sdar.policy.paths import set_fp32_head
from sdar.training.reference import frozen_copy

PROMPTS = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
RESPONSES = [[1, 2], [3, 4, 5], [6]]


def scored(model: Any) -> tuple[Scores, OperationCounts]:
    scorer = PolicyScorer(model)
    with torch.autocast("cpu", torch.bfloat16), OperationCounts(model) as counts:
        scores = score_responses(scorer, PROMPTS, RESPONSES, micro_batch=1, entropy=True)
    return scores, counts


@pytest.mark.parametrize("tied", [True, False])
def test_a_frozen_copy_in_bfloat16_scores_to_the_same_bits(tied: bool) -> None:
    model = random_model(2)
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight * 1.5)
    expected, usual = scored(copy.deepcopy(model).requires_grad_(False))
    frozen = frozen_copy(model, torch.bfloat16)
    found, counts = scored(frozen)
    assert torch.equal(found.log_probs, expected.log_probs)
    assert torch.equal(found.entropy, expected.entropy)
    assert counts.weight_casts == 0
    assert usual.weight_casts >= 3 * 2 * 7, "in each of three passes"
    assert frozen.lm_head.weight.dtype == torch.bfloat16
    assert frozen.model.embed_tokens.weight.dtype == torch.float32
    assert frozen.model.norm.weight.dtype == torch.float32
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    assert not any(each.requires_grad for each in frozen.parameters())


def test_a_frozen_copy_whose_head_computes_in_float32_scores_to_the_same_bits() -> None:
    model = random_model(2)
    set_fp32_head(model, True)
    expected, _ = scored(copy.deepcopy(model).requires_grad_(False))
    frozen = frozen_copy(model, torch.bfloat16)
    found, _ = scored(frozen)
    assert torch.equal(found.log_probs, expected.log_probs)
    assert frozen.lm_head.weight.dtype == torch.float32
    assert frozen.lm_head.weight is frozen.model.embed_tokens.weight
    assert frozen.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16


def test_without_autocast_or_in_another_family_nothing_is_converted() -> None:
    for model, dtype in ((random_model(1), None), (make_model("gemma"), torch.bfloat16)):
        frozen = frozen_copy(model, dtype)
        assert {each.dtype for each in frozen.parameters()} == {torch.float32}
        assert all(
            torch.equal(one, other)
            for one, other in zip(frozen.parameters(), model.parameters(), strict=True)
        )
