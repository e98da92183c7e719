"""Adapters in the policy's own modules: what they add, what is left without them."""

import pytest
import scripted
import torch

from sdar.config.execution import LoraConfig
from sdar.errors import SdarError
from sdar.policy.log_probs import PolicyScorer, score_responses
from sdar.policy.lora import add_adapters, has_adapters, without_adapters
from sdar.policy.weights import further_names, named_full_weights

peft = pytest.importorskip("peft", reason="pip install 'sdar[lora]'")
PROMPTS, RESPONSES = [[5, 6, 7], [8, 9]], [[10, 11], [12, 13, 14]]


def log_probs(model):
    return score_responses(PolicyScorer(model), PROMPTS, RESPONSES).log_probs


def adapted(seed=0, trained=True, **keys):
    model = scripted.policy()
    add_adapters(model, LoraConfig(rank=4, alpha=8, **keys), seed)
    if trained:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0.0, 0.1)
    return model


def test_fresh_adapters_change_nothing_and_are_all_that_is_trained():
    model = adapted(trained=False)
    assert torch.equal(log_probs(model), log_probs(scripted.policy()))
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert len(trained) == 2 * 2 * 7, "A and B of seven linear layers of two decoder layers"
    assert all("lora_" in name for name in trained)


def test_first_values_are_a_function_of_the_seed_alone():
    def first(seed):
        torch.rand(seed)  # the global generator is elsewhere each time
        return adapted(seed, trained=False).state_dict()

    (one, same), other = (first(7) for _ in range(2)), first(8)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_without_adapters_the_policy_is_what_it_was():
    model = adapted()
    assert not torch.allclose(log_probs(model), log_probs(scripted.policy()), atol=1e-2)
    with without_adapters(model):
        assert torch.equal(log_probs(model), log_probs(scripted.policy()))
    assert not torch.allclose(log_probs(model), log_probs(scripted.policy()), atol=1e-2)
    assert all(v.requires_grad == ("lora_" in n) for n, v in model.named_parameters())


def test_full_weights_are_what_peft_merges():
    model = adapted()
    plain = scripted.policy()
    full = dict(named_full_weights(model))
    assert full.keys() == plain.state_dict().keys(), "every name of Hugging Face's, tied included"
    plain.load_state_dict(full)
    assert torch.allclose(log_probs(plain), log_probs(model), atol=1e-5)
    for layer in model.modules():
        if isinstance(layer, peft.tuners.tuners_utils.BaseTunerLayer):
            layer.merge()
    for name, value in model.state_dict().items():
        if ".base_layer." in name:
            assert torch.allclose(full[name.replace(".base_layer", "")], value, atol=1e-6), name


def test_full_weights_of_a_plain_model_are_its_state():
    model = scripted.policy()
    state = model.state_dict()
    full = dict(named_full_weights(model))
    assert full.keys() == state.keys()
    assert all(full[name] is state[name] or torch.equal(full[name], state[name]) for name in full)
    assert further_names(model) == {"lm_head.weight"}
    assert not has_adapters(model)


def test_chosen_layers_alone_get_adapters():
    names = [n for n, v in adapted(targets=("q_proj",)).named_parameters() if v.requires_grad]
    assert len(names) == 2 * 2
    assert all("q_proj" in name for name in names)


def test_unknown_layers_are_one_sentence():
    with pytest.raises(SdarError, match=r"training\.lora\.targets"):
        adapted(targets=("no_such_layer",))


def test_the_head_gets_none():
    with pytest.raises(ValueError, match="remove embed_tokens and lm_head"):
        LoraConfig(targets=("q_proj", "lm_head"))
