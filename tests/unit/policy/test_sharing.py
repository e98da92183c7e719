"""Common beginnings computed once: the numbers and gradients of each sequence by itself."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import plain_forward
import pytest
import torch
from double_precision import double_precision, in_double
from model_families import FAMILIES, make_model
from plain_forward import gradients

from sdar.config.execution import LoraConfig
from sdar.policy.log_probs import PolicyScorer, score_responses
from sdar.policy.lora import add_adapters
from sdar.policy.micro_batches import pad_batch
from sdar.policy.paths import scoring_path, set_sharing, shares_prefixes
from sdar.policy.prefix_tree import prefix_tree
from sdar.policy.probe import find_scoring_path
from sdar.policy.recomputation import recompute_layers
from sdar.policy.shared_attention import configs_of, tree_in_use
from sdar.policy.sharing_probe import find_sharing
from sdar.policy.trunk import hidden_states_of_tree
from sdar.rollout.engines.transformers import TransformersEngine
from sdar.rollout.engines.transformers_continuous import ContinuousTransformersEngine

RANDOM = np.random.Generator(np.random.Philox(8))


def ids(count):
    return RANDOM.integers(3, 150, size=count).tolist()


SKILL, TASK = ids(12), ids(9)
PROMPTS = [
    *([[*SKILL, *TASK]] * 3),
    [*SKILL, *TASK[:4], *ids(3)],
    [*SKILL, *TASK[:4], *ids(11)],
    ids(7),
    ids(1),
    SKILL,
]
RESPONSES = [ids(4), ids(1), ids(6), ids(5), ids(2), ids(7), ids(3), [*TASK[:2], 5]]
RESPONSES[1] = RESPONSES[0][:1]
naive = partial(plain_forward.scores, PROMPTS, RESPONSES)


@pytest.fixture
def double():
    with double_precision():
        yield


def shared_model(family, **changes):
    """In double precision, where that is the default."""
    model = make_model(family, seed=5, **changes)
    if torch.get_default_dtype() == torch.float64:
        model = in_double(model)
    find_scoring_path(model, PolicyScorer, 60)
    assert find_sharing(model, PolicyScorer, 60) is None
    return model


def close(found, wanted, atol=1e-10):
    scale = max(1.0, float(wanted.detach().abs().max()))
    torch.testing.assert_close(found, wanted, atol=atol * scale, rtol=0)


def assert_the_models_own(model, atol=1e-10):
    wanted = naive(model)
    wanted_gradients = gradients(model, *wanted)
    batch = pad_batch(PROMPTS, RESPONSES, share=True)
    assert len(batch.tree.ids_N) < 0.7 * (sum(map(len, PROMPTS)) + sum(map(len, RESPONSES)))
    scores = PolicyScorer(model)(batch, entropy=True)
    close(scores.log_probs, wanted[0], atol)
    close(scores.entropy, wanted[1], atol)
    found = gradients(model, scores.log_probs, scores.entropy)
    assert found.keys() == wanted_gradients.keys()
    for name, gradient in found.items():
        close(gradient, wanted_gradients[name], atol)


# Norms of other families compute in 32 bits whatever the weights; `in_double` knows Qwen's.
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("family", "layers"), [("qwen2", 2), ("qwen3", 3), ("qwen3", 9), ("gpt2", 2)]
)
def test_scores_and_gradients_are_those_of_each_sequence_by_itself(family, layers):
    assert_the_models_own(shared_model(family, num_hidden_layers=layers))


@pytest.mark.usefixtures("double")
def test_as_on_a_gpu_where_all_nodes_of_a_row_attend():
    """There attention with a mask is slower than some queries too many."""
    batches = [pad_batch(PROMPTS, RESPONSES, share=True)]
    sequences = [[*p, *r[:-1]] for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    tree = prefix_tree(sequences, batches[0].positions_SR.numpy())
    assert (len(tree.groups), len(batches[0].tree.groups) > 1) == (1, True)
    batches.append(replace(batches[0], tree=tree))
    scorer = PolicyScorer(shared_model("qwen3"))
    grouped, whole = (scorer(batch).log_probs for batch in batches)
    close(grouped, whole)


@pytest.mark.parametrize(
    "family", ["qwen3", "llama", "granite", "qwen3_moe", "deepseek_v3", "minicpm3"]
)
def test_so_they_are_in_single_precision(family):
    assert_the_models_own(shared_model(family), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_so_they_are_in_every_family_that_shares(family):
    model = make_model(family, seed=5)
    find_scoring_path(model, PolicyScorer, 60)
    if find_sharing(model, PolicyScorer, 60) is None:
        assert_the_models_own(model, 1e-5)
    else:
        assert pad_batch(PROMPTS, RESPONSES, share=shares_prefixes(model)).tree is None


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("layers", [3, 9])
def test_with_adapters(layers):
    model = shared_model("qwen3", num_hidden_layers=layers)
    add_adapters(model, LoraConfig(rank=4, alpha=8), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.double()
            if "lora_B" in name:
                parameter.normal_(0.0, 0.2)
    assert shares_prefixes(model)
    assert_the_models_own(model)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_layers_that_are_recomputed_see_the_tree_again(family):
    model = shared_model(family)
    recompute_layers(model)
    assert_the_models_own(model)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("qwen3_next", "log-probs differ"),
        ("lfm2", "log-probs differ"),
        ("bamba", "log-probs differ"),
        ("mistral", "attends to 12 tokens only"),
    ],
)
def test_where_tokens_meet_otherwise_nothing_is_shared(family, reason):
    model = make_model(family, seed=5)
    find_scoring_path(model, PolicyScorer, 60)
    assert reason in find_sharing(model, PolicyScorer, 60)
    assert not shares_prefixes(model)
    with torch.no_grad():
        found = score_responses(PolicyScorer(model), PROMPTS, RESPONSES).log_probs
        close(found, naive(model)[0], 1e-4)


def test_another_attention_than_the_usual_one_is_left_alone():
    model = make_model("qwen3", seed=5)
    model.set_attn_implementation("eager")
    assert "its attention is eager, not sdpa" in find_sharing(model, PolicyScorer, 60)


def test_a_window_beyond_every_sequence_does_not_matter():
    model = make_model("mistral", sliding_window=60)
    find_scoring_path(model, PolicyScorer, 60)
    assert find_sharing(model, PolicyScorer, 60) is None


def test_a_sequence_alone_in_its_pass_and_too_many_logits_take_the_plain_way(monkeypatch):
    model = shared_model("granite")
    assert scoring_path(model) == "general"
    monkeypatch.setattr("sdar.policy.paths.CHUNK_LOGITS", 200)
    with torch.no_grad():
        close(
            score_responses(PolicyScorer(model), PROMPTS, RESPONSES).log_probs,
            naive(model)[0],
            1e-5,
        )
        alone = score_responses(PolicyScorer(model), PROMPTS[:1], RESPONSES[:1]).log_probs
    close(alone[0], naive(model)[0][0, : len(RESPONSES[0])].detach(), 1e-5)


def test_the_models_attention_is_its_own_again_whatever_happens():
    model = shared_model("qwen3")
    tree = pad_batch(PROMPTS, RESPONSES, share=True).tree
    model.model.layers[0].register_forward_hook(lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        hidden_states_of_tree(model, tree)
    assert tree_in_use() is None
    assert {config._attn_implementation for config in configs_of(model)} == {"sdpa"}
    assert shares_prefixes(copy.deepcopy(model)), "a reference shares, too"


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("engine", [TransformersEngine, ContinuousTransformersEngine])
@pytest.mark.parametrize(
    ("family", "layers", "block"),
    [("qwen3", 3, None), ("qwen3", 9, None), ("qwen3", 3, 40), ("opt", 2, None)],
)
def test_prompts_are_read_as_each_by_itself(engine, family, layers, block):
    model = shared_model(family, num_hidden_layers=layers)
    ends = frozenset(range(0, 160, 6))
    keys = [(3, 1, slot, 2) for slot in range(len(PROMPTS))]
    found = []
    for share in (False, True):
        set_sharing(model, share)
        sampler = engine(model, None, ends=ends, prefill_tokens=block)
        assert sampler.path == "fast"
        found.append(sampler.generate(PROMPTS, keys, max_new_tokens=8, temperature=1.0))
    for plain, shared in zip(*found, strict=True):
        assert shared.token_ids == plain.token_ids
        np.testing.assert_allclose(shared.log_probs, plain.log_probs, atol=1e-10)
    assert len({len(generation.token_ids) for generation in found[0]}) > 1
