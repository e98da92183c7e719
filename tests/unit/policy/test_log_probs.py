"""The chunked kernel equals the naive one: full logits, one sample at a time, autograd."""

import copy
from functools import partial

import numpy as np
import plain_forward
import pytest
import scripted
import torch
from plain_forward import gradients

from sdar.policy.log_probs import (
    PolicyScorer,
    TeacherDistribution,
    copied_head,
    score_responses,
)
from sdar.policy.micro_batches import pad_batch
from sdar.policy.paths import set_fp32_head
from sdar.rollout.engines.copied import copy_without_weights
from sdar.rollout.engines.transformers import TransformersEngine

RANDOM = np.random.Generator(np.random.Philox(1))
PROMPTS = [RANDOM.integers(3, 360, size=n).tolist() for n in (5, 17, 40, 17, 1, 29)]
RESPONSES = [RANDOM.integers(3, 360, size=n).tolist() for n in (4, 1, 7, 3, 2, 7)]
WEIGHTS = torch.linspace(-1.0, 2.0, 6 * 7).view(6, 7)
naive = partial(plain_forward.scores, PROMPTS, RESPONSES)
"""[S, R] log-probs and entropies by the model's own forward."""


@pytest.mark.parametrize(
    ("layers", "chunk_logits"),
    [(1, 1 << 26), (3, 1 << 26), (3, 360 * 5), (3, 1), (8, 360 * 5), (8, 1 << 26)],
)
def test_values_and_gradients_equal_the_naive_ones(layers, chunk_logits):
    model = scripted.policy(layers=layers)
    expected = naive(model)
    expected_gradients = gradients(model, *expected)
    assert expected_gradients.keys() == dict(model.named_parameters()).keys()
    scorer = PolicyScorer(model, chunk_logits=chunk_logits)
    scores = scorer(pad_batch(PROMPTS, RESPONSES), entropy=True)
    torch.testing.assert_close(scores.log_probs, expected[0], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(scores.entropy, expected[1], atol=2e-5, rtol=1e-5)
    found = gradients(model, scores.log_probs, scores.entropy)
    assert found.keys() == expected_gradients.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(
            gradient, expected_gradients[name], atol=2e-4, rtol=1e-4, msg=lambda m, n=name: n + m
        )


def test_temperature_divides_the_logits():
    model = scripted.policy()
    scores = PolicyScorer(model, temperature=0.5)(pad_batch(PROMPTS, RESPONSES), entropy=True)
    with torch.no_grad():
        expected = naive(model, temperature=0.5)
    torch.testing.assert_close(scores.log_probs, expected[0], atol=5e-5, rtol=1e-5)
    torch.testing.assert_close(scores.entropy, expected[1], atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize(("micro_batch", "tokens"), [(1, 4096), (2, 4096), (64, 50), (64, 4096)])
def test_micro_batches_change_nothing(micro_batch, tokens):
    model = scripted.policy()
    scorer = PolicyScorer(model)
    with torch.no_grad():
        expected = naive(model)
    scores = score_responses(
        scorer,
        PROMPTS,
        RESPONSES,
        micro_batch=micro_batch,
        micro_batch_tokens=tokens,
        entropy=True,
    )
    torch.testing.assert_close(scores.log_probs, expected[0], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(scores.entropy, expected[1], atol=2e-5, rtol=1e-5)


def test_no_more_than_a_chunk_of_logits_exists():
    model, sizes = scripted.policy(), []
    model.lm_head.register_forward_hook(lambda module, given, out: sizes.append(out.shape[0]))
    PolicyScorer(model, chunk_logits=360 * 5)(pad_batch(PROMPTS, RESPONSES))
    assert max(sizes) == 5
    assert sum(sizes) == sum(map(len, RESPONSES)), "prompt positions must not reach the head"


TEACHER_PROMPTS = [[7, 8, 9, *prompt] for prompt in PROMPTS]


@pytest.fixture
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def double_policy(layers=2):
    """In double precision throughout (Qwen's own norms fall back to single)."""
    model = scripted.policy(layers=layers, spread=1.5).double()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ == "Qwen3RMSNorm":
                norm = torch.nn.RMSNorm(child.weight.shape[0], eps=child.variance_epsilon)
                norm.weight = child.weight
                setattr(parent, name, norm)
    return model.double()


def distribution(model, **how):
    scores = score_responses(PolicyScorer(model), TEACHER_PROMPTS, RESPONSES, hidden=True, **how)
    return TeacherDistribution(copied_head(model), scores.hidden, tuple(map(len, RESPONSES)))


def naive_divergence(model, teacher, temperature=1.0):
    """[S, R] KL(model || teacher) from full logits."""
    divergence = torch.zeros(6, 7, dtype=torch.float64)
    rows = zip(PROMPTS, TEACHER_PROMPTS, RESPONSES, strict=True)
    for row, (prompt, longer, response) in enumerate(rows):
        student, taught = (
            which(input_ids=torch.tensor([ids + response]), use_cache=False)
            .logits[0, len(ids) - 1 : -1]
            .div(temperature)
            .log_softmax(-1)
            for which, ids in ((model, prompt), (teacher, longer))
        )
        values = (student.exp() * (student - taught.detach())).sum(-1)
        divergence[row, : len(response)] = values
    return divergence


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(
    ("chunk_logits", "temperature", "layers"),
    [(1 << 26, 1.0, 2), (360 * 5, 0.7, 2), (1, 1.0, 2), (360 * 5, 1, 8)],
)
def test_divergence_equals_the_naive_one(chunk_logits, temperature, layers):
    """Values and gradients, also once the student has moved away from the step's start."""
    model = double_policy(layers)
    teacher = copy.deepcopy(model)
    taught = distribution(model, micro_batch=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.linspace(-1, 1, parameter.numel()).view(parameter.shape)
    weights = WEIGHTS.double()
    expected = naive_divergence(model, teacher, temperature)
    (weights * expected).sum().backward()
    gradients_expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    rows = [4, 2, 0, 5, 1, 3]
    scorer = PolicyScorer(model, temperature=temperature, chunk_logits=chunk_logits)
    scores = scorer(
        pad_batch([PROMPTS[i] for i in rows], [RESPONSES[i] for i in rows]),
        entropy=True,
        teacher=taught.of(rows, "cpu"),
    )
    torch.testing.assert_close(scores.divergence, expected[rows], atol=1e-9, rtol=0)
    assert expected.detach()[0, 0] > 1e-3
    (weights[rows] * scores.divergence).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients_expected[name], atol=1e-9, rtol=0)
    assert all(p.grad is None for p in taught.head.parameters())


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("chunk_logits", [1 << 26, 360 * 5, 1])
@pytest.mark.parametrize("taught", [[True, False, True, False, False, True], [False] * 6])
def test_divergence_is_nothing_where_the_teacher_has_not_scored(chunk_logits, taught):
    """And elsewhere what it is when all is scored: values and gradients."""
    model = double_policy()
    every, some = distribution(model), [i for i in range(6) if taught[i]]
    if some:
        hidden_ND = torch.cat([every.of([row], "cpu").hidden_ND for row in some])
    else:
        hidden_ND = torch.empty(0, 0)
    tokens = [len(ids) if taught[i] else 0 for i, ids in enumerate(RESPONSES)]
    part = TeacherDistribution(every.head, hidden_ND, tuple(tokens))
    rows, results = [4, 2, 0, 5, 1, 3], []
    batch = pad_batch([PROMPTS[i] for i in rows], [RESPONSES[i] for i in rows])
    inside = torch.tensor([taught[i] for i in rows])[:, None]
    for teacher in (every, part):
        scorer = PolicyScorer(model, chunk_logits=chunk_logits)
        scores = scorer(batch, entropy=True, teacher=teacher.of(rows, "cpu"))
        model.zero_grad()
        values = scores.divergence * inside + scores.log_probs
        (WEIGHTS.double()[rows] * values).sum().backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
        results.append((scores.divergence.detach(), gradients))
    (expected, gradients_expected), (found, gradients) = results
    assert (expected[batch.mask_SR] > 0).all()
    torch.testing.assert_close(found, expected * inside, atol=1e-12, rtol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, gradients_expected[name], atol=1e-10, rtol=0)


def test_divergence_costs_no_more_than_a_chunk_and_is_made_again_in_backward():
    model, sizes = scripted.policy(), []
    taught = distribution(model)
    for head in (model.lm_head, taught.head):
        head.register_forward_hook(lambda module, given, out: sizes.append(out.shape[0]))
    scorer = PolicyScorer(model, chunk_logits=360 * 5)
    batch = pad_batch(PROMPTS, RESPONSES)
    kept = []

    def keep(tensor):
        kept.append(tensor.numel() if tensor.shape[-1] == 360 else 0)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        divergence = scorer(batch, teacher=taught).divergence
    assert max(sizes) == 5
    assert sum(sizes) == 2 * sum(map(len, RESPONSES))
    assert max(kept, default=0) == 0, "no chunk of logits outlives the forward pass"
    divergence.sum().backward()
    assert sum(sizes) == 4 * sum(map(len, RESPONSES))


def test_asking_for_more_changes_no_log_prob():
    model = scripted.policy()
    plain = score_responses(PolicyScorer(model), PROMPTS, RESPONSES)
    for how in ({"entropy": True}, {"hidden": True}):
        more = score_responses(PolicyScorer(model), PROMPTS, RESPONSES, **how)
        assert torch.equal(more.log_probs, plain.log_probs)
    batch, scorer = pad_batch(PROMPTS, RESPONSES), PolicyScorer(model)
    one = scorer(batch, entropy=True)
    other = scorer(batch, entropy=True, teacher=distribution(model))
    assert torch.equal(one.log_probs, other.log_probs)
    assert torch.equal(one.entropy, other.entropy)


def test_hidden_states_are_kept_in_the_type_the_head_computes_in():
    model = scripted.policy()
    with torch.autocast("cpu", torch.bfloat16):
        taught = distribution(model, micro_batch=1)
        assert taught.hidden_ND.dtype == torch.bfloat16
        assert {p.dtype for p in taught.head.parameters()} == {torch.bfloat16}
        batch = pad_batch(TEACHER_PROMPTS, RESPONSES)
        same = PolicyScorer(model)(batch, teacher=taught).divergence
    # The same weights after the same prompts: padding alone rounds otherwise.
    assert same.dtype == torch.float32
    assert same.abs().max() < 1e-2
    assert distribution(model).hidden_ND.dtype == torch.float32


def test_a_teacher_stays_as_it_was_when_the_policy_moves():
    model = scripted.policy()
    taught = distribution(model)
    before = [p.clone() for p in taught.head.parameters()]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1.0
    assert all(torch.equal(a, b) for a, b in zip(before, taught.head.parameters(), strict=True))
    assert not any(p.requires_grad for p in taught.head.parameters())


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_a_head_in_float32_rounds_no_logit_in_scorer_and_engine(weights):
    model = scripted.policy().to(weights)
    batch = pad_batch(PROMPTS, RESPONSES)
    seen = []
    model.lm_head.register_forward_hook(lambda *_: seen.append("rounded"))

    def logits():
        scorer = PolicyScorer(model)
        engine = TransformersEngine(model, scripted.tokenizer(), path="fast")
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            hidden = scorer(batch, hidden=True).hidden
            return hidden, scorer._logits(model.lm_head, hidden), engine._logits(hidden)

    _, usual, sampled = logits()
    assert torch.equal(usual, sampled)
    assert torch.equal(usual, usual.bfloat16().float()), "bfloat16 by default"
    assert seen
    seen.clear()
    set_fp32_head(model, True)
    hidden, exact, sampled = logits()
    assert torch.equal(exact, sampled)
    assert torch.equal(exact, hidden.float() @ model.lm_head.weight.float().T)
    assert not torch.equal(exact, exact.bfloat16().float())
    assert not seen
    copied = copy_without_weights(model, torch.bfloat16, "cpu")
    copied.load_state_dict(model.state_dict())
    engine = TransformersEngine(copied, scripted.tokenizer(), path="fast")
    assert engine._logits(hidden[:1]).dtype == torch.float32
    assert engine._logits(hidden[:1]).bfloat16().float().ne(engine._logits(hidden[:1])).any()


def test_a_head_in_float32_changes_nothing_in_float32():
    scores = []
    for wanted in (False, True):
        model = scripted.policy()
        set_fp32_head(model, wanted)
        scores.append(score_responses(PolicyScorer(model), PROMPTS, RESPONSES, entropy=True))
    assert torch.equal(scores[0].log_probs, scores[1].log_probs)
    assert torch.equal(scores[0].entropy, scores[1].entropy)


def test_the_teachers_head_is_kept_in_the_type_it_computes_in():
    model = scripted.policy()
    with torch.autocast("cpu", torch.bfloat16):
        assert copied_head(model).weight.dtype == torch.bfloat16
        set_fp32_head(model, True)
        assert copied_head(model).weight.dtype == torch.float32
        scores = score_responses(PolicyScorer(model), PROMPTS, RESPONSES, hidden=True)
        assert scores.hidden.dtype == torch.float32
