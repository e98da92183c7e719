"""The engine samples what the model says, whatever else is in the batch."""

import numpy as np
import pytest
import scripted
import torch
from double_precision import double_precision, in_double

from sdar.rollout.engines.base import uniforms
from sdar.rollout.engines.transformers import TransformersEngine, sample

PROMPTS = [
    scripted.tokenizer()(text)["input_ids"]
    for text in (*scripted.TEXTS, scripted.TEXTS[0], "You", *scripted.TEXTS[:2])
]
KEYS = [(3, 1, slot, 2) for slot in range(len(PROMPTS))]


@pytest.fixture(scope="module", autouse=True)
def in_double_precision():
    """Where a draw lies between two tokens, rounding decides: in single precision some processor's
    would, sooner or later."""
    with double_precision():
        yield


def naive(model, prompt, key, ends, max_new_tokens, temperature):
    """One prompt, no cache, full logits every time."""
    draws = uniforms([key], max_new_tokens)[0]
    ids, tokens, log_probs = list(prompt), [], []
    for place in range(max_new_tokens):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double()
        if temperature == 0:
            token = int(logits.argmax())
        else:
            cumulative = (logits / temperature).softmax(-1).cumsum(-1)
            token = int(torch.searchsorted(cumulative, torch.tensor([draws[place]]), right=True))
        tokens.append(token)
        log_probs.append(float(logits.log_softmax(-1)[token]))
        ids.append(token)
        if token in ends:
            break
    return tokens, log_probs


@pytest.mark.parametrize("temperature", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("prefill_tokens", [1, 100, 4096])
def test_matches_sampling_one_prompt_at_a_time(temperature, prefill_tokens):
    model = in_double(scripted.policy())
    ends = frozenset({5, 9, 60, 61, 62, 63, 64})
    engine = TransformersEngine(model, None, ends=ends, prefill_tokens=prefill_tokens)
    responses = engine.generate(PROMPTS, KEYS, max_new_tokens=9, temperature=temperature)
    for prompt, key, generation in zip(PROMPTS, KEYS, responses, strict=True):
        tokens, log_probs = naive(model, prompt, key, ends, 9, temperature)
        assert generation.token_ids == tokens
        np.testing.assert_allclose(generation.log_probs, log_probs, atol=1e-9)
    if temperature == 1.0:
        assert len({len(g.token_ids) for g in responses}) > 1, "rows must leave early"


def test_a_deep_model_uses_its_own_forward_and_agrees():
    model = in_double(scripted.policy(layers=8))
    ends = frozenset({5, 60})
    responses = TransformersEngine(model, None, ends=ends).generate(
        PROMPTS, KEYS, max_new_tokens=4, temperature=1.0
    )
    for prompt, key, generation in zip(PROMPTS, KEYS, responses, strict=True):
        assert generation.token_ids == naive(model, prompt, key, ends, 4, 1.0)[0]


def test_response_does_not_depend_on_its_neighbours():
    engine = TransformersEngine(in_double(scripted.policy()), scripted.tokenizer())
    together = engine.generate(PROMPTS, KEYS, max_new_tokens=8, temperature=1.0)
    alone = engine.generate(PROMPTS[3:4], KEYS[3:4], max_new_tokens=8, temperature=1.0)[0]
    assert alone.token_ids == together[3].token_ids
    backwards = engine.generate(PROMPTS[::-1], KEYS[::-1], max_new_tokens=8, temperature=1.0)
    assert [g.token_ids for g in backwards[::-1]] == [g.token_ids for g in together]


def test_uniforms_are_functions_of_the_key():
    keys = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, -1, 0, 0)]
    draws = uniforms(keys, 64)
    assert len({tuple(row) for row in draws}) == len(keys)
    np.testing.assert_array_equal(draws[2], uniforms(keys[2:3], 64)[0])
    np.testing.assert_array_equal(draws[2][:5], uniforms(keys[2:3], 5)[0])


def test_sampling_follows_the_distribution():
    logits = torch.tensor([[0.0, -torch.inf, 1.0, 2.0]]).expand(40_000, 4)
    draws = torch.from_numpy(uniforms([(0, 0, 0, 0)], 40_000)[0])
    chosen, log_probs = sample(logits, draws, 1.0)
    shares = torch.bincount(chosen, minlength=4) / 40_000
    expected = logits[0].softmax(-1)
    assert shares[1] == 0
    # Four standard errors of a share are at most .01 here.
    torch.testing.assert_close(shares, expected, atol=0.01, rtol=0)
    torch.testing.assert_close(log_probs.exp(), expected[chosen])


def test_sampling_at_the_edges_stays_inside_the_vocabulary():
    logits = torch.tensor([[0.0, 1.0, -torch.inf]] * 2)
    chosen, _ = sample(logits, torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64), 1.0)
    assert chosen.tolist() == [0, 1]
