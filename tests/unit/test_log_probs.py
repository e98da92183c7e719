"""The chunked kernel equals the naive one: full logits, one sample at a time, autograd."""

import numpy as np
import pytest
import scripted
import torch

from sdar.policy.batches import pad_batch
from sdar.policy.log_probs import PolicyScorer, score_responses

RANDOM = np.random.Generator(np.random.Philox(1))
PROMPTS = [RANDOM.integers(3, 360, size=n).tolist() for n in (5, 17, 40, 17, 1, 29)]
RESPONSES = [RANDOM.integers(3, 360, size=n).tolist() for n in (4, 1, 7, 3, 2, 7)]
WEIGHTS = torch.linspace(-1.0, 2.0, 6 * 7).view(6, 7)


def naive(model, temperature=1.0):
    """[S, R] log-probs and entropies from full logits."""
    log_probs, entropies = torch.zeros(6, 7), torch.zeros(6, 7)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        ids = torch.tensor([prompt + response])
        logits = model(input_ids=ids, use_cache=False).logits[0] / temperature
        every = logits[len(prompt) - 1 : -1].log_softmax(-1)
        count = len(response)
        log_probs[row, :count] = every[torch.arange(count), torch.tensor(response)]
        entropies[row, :count] = -(every.exp() * every).sum(-1)
    return log_probs, entropies


def gradients(model, log_probs, entropies):
    model.zero_grad()
    (WEIGHTS * log_probs + 0.3 * WEIGHTS.flip(0) * entropies).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("layers", "packed", "chunk_logits"),
    [
        (1, False, 1 << 26),
        (3, False, 1 << 26),
        (3, False, 360 * 5),
        (3, False, 1),
        (3, True, 360 * 5),
        (8, False, 1 << 26),
        (8, True, 1 << 26),
    ],
)
def test_values_and_gradients_equal_the_naive_ones(layers, packed, chunk_logits):
    model = scripted.policy(layers=layers)
    expected = naive(model)
    expected_gradients = gradients(model, *expected)
    scorer = PolicyScorer(model, chunk_logits=chunk_logits)
    found = scorer(pad_batch(PROMPTS, RESPONSES), entropy=True, packed=packed)
    torch.testing.assert_close(found.log_probs, expected[0], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found.entropy, expected[1], atol=2e-5, rtol=1e-5)
    for name, gradient in gradients(model, found.log_probs, found.entropy).items():
        torch.testing.assert_close(
            gradient, expected_gradients[name], atol=2e-4, rtol=1e-4, msg=lambda m, n=name: n + m
        )


def test_temperature_divides_the_logits():
    model = scripted.policy()
    found = PolicyScorer(model, temperature=0.5)(pad_batch(PROMPTS, RESPONSES), entropy=True)
    with torch.no_grad():
        expected = naive(model, temperature=0.5)
    torch.testing.assert_close(found.log_probs, expected[0], atol=5e-5, rtol=1e-5)
    torch.testing.assert_close(found.entropy, expected[1], atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize(("micro_batch", "tokens"), [(1, 4096), (2, 4096), (64, 50), (64, 4096)])
def test_micro_batches_change_nothing(micro_batch, tokens):
    model = scripted.policy()
    scorer = PolicyScorer(model)
    with torch.no_grad():
        expected = naive(model)
    found = score_responses(
        scorer,
        PROMPTS,
        RESPONSES,
        micro_batch=micro_batch,
        micro_batch_tokens=tokens,
        entropy=True,
    )
    torch.testing.assert_close(found.log_probs, expected[0], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found.entropy, expected[1], atol=2e-5, rtol=1e-5)


def test_no_more_than_a_chunk_of_logits_exists():
    model, sizes = scripted.policy(), []
    model.lm_head.register_forward_hook(lambda module, given, out: sizes.append(out.shape[0]))
    PolicyScorer(model, chunk_logits=360 * 5)(pad_batch(PROMPTS, RESPONSES))
    assert max(sizes) == 5
    assert sum(sizes) == sum(map(len, RESPONSES)), "prompt positions must not reach the head"
