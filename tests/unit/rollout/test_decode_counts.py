"""What decoding asks of a device, counted on a CPU: benchmarks/decode_ops.py prints the same."""

from typing import Any

import pytest
import torch
from decode_ops import continuously, counts_per_token, in_turns, random_model
from measuring import OperationCounts

from sdar.rollout.engines.transformers_continuous import ContinuousTransformersEngine

SCHEDULES = pytest.mark.parametrize("work", [in_turns, continuously])


@SCHEDULES
def test_no_token_converts_a_weight(work: Any) -> None:
    model = random_model(3)
    assert counts_per_token(work, model, 2, 8, "bfloat16", keep=False)["weight_casts"] > 3 * 7
    counts = counts_per_token(work, model, 2, 8, "bfloat16")
    assert counts["weight_casts"] == 0
    # Inputs of q, k, v, gate and up, query and new key; the head's input and its logits.
    assert counts["casts"] == 3 * 7 + 2
    assert counts_per_token(work, model, 2, 8, "float32")["casts"] == 0


def test_bits_do_not_depend_on_inference_mode() -> None:
    model = random_model(2)
    prompts, keys = [[3, 4, 5], [6, 7]], [(0, 0, 0, 0), (0, 0, 1, 0)]
    for enabled in (False, True):
        engine = ContinuousTransformersEngine(model, None, ends=frozenset({1}))
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            one = engine.generate(prompts, keys, max_new_tokens=9, temperature=1.0)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            other = engine.generate(prompts, keys, max_new_tokens=9, temperature=1.0)
        assert one == other, "log-probs to the bit"


def test_the_counts_see_what_they_name() -> None:
    model = torch.nn.Linear(3, 3)
    values = torch.tensor([[1.0, 2.0, 3.0]])
    with OperationCounts(model) as counts:
        model.weight.detach().T.to(torch.bfloat16)
        values.to(torch.bfloat16)
        values.to(torch.long)
    assert (counts.operations, counts.casts, counts.weight_casts) == (3, 2, 1)
    with OperationCounts(model) as counts:
        float(values.max())
        values.tolist()
        values.nonzero()
        values[values > 2]
        bool((values > 2).any())
    assert counts.host_reads == 5
