"""The tiny policy is a Qwen3 like any other, and a function of its seed."""

import re

import torch
from transformers import AutoModelForCausalLM, Qwen3ForCausalLM

from sdar.config.models import TinyPolicyConfig
from sdar.policy.tiny import make_tiny_policy
from sdar.policy.tokenizer import train_tokenizer
from sdar.policy.weights import policy_digest

CLASSES = ("egg", "mug", "drawer", "fridge", "shelf", "lamp")
TOKENIZER = train_tokenizer(
    [f"the {name} is {name} {n}, so {name}: {name} {n}" for name in CLASSES for n in (1, 2, 3)],
    400,
    64,
)
CONFIG = TinyPolicyConfig(
    layers=2, hidden=64, intermediate=48, heads=4, kv_heads=2, vocabulary=400, context=64
)


def test_it_is_a_qwen3_of_the_configured_size() -> None:
    model = make_tiny_policy(CONFIG, TOKENIZER, seed=0)
    assert type(model) is Qwen3ForCausalLM
    config = model.config
    sizes = (config.num_hidden_layers, config.hidden_size, config.intermediate_size)
    assert sizes == (2, 64, 48)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 2, 16)
    assert config.max_position_embeddings == 64
    assert len(TOKENIZER) <= config.vocab_size < len(TOKENIZER) + 16
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    for source in (config, model.generation_config):
        assert source.eos_token_id == TOKENIZER.eos_token_id
        assert source.pad_token_id == TOKENIZER.pad_token_id


def test_saved_and_loaded_it_says_the_same(tmp_path) -> None:
    model = make_tiny_policy(CONFIG, TOKENIZER, seed=3).eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is Qwen3ForCausalLM
    assert loaded.generation_config.eos_token_id == TOKENIZER.eos_token_id
    ids = torch.tensor([TOKENIZER("the egg is egg 2, so shelf: shelf 1").input_ids])
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)


def test_it_is_a_function_of_its_seed_alone() -> None:
    torch.manual_seed(1)
    first = make_tiny_policy(CONFIG, TOKENIZER, seed=0)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = make_tiny_policy(CONFIG, TOKENIZER, seed=0)
    assert torch.equal(torch.get_rng_state(), before), "the global generator is nobody's business"
    assert policy_digest(first) == policy_digest(second)
    assert policy_digest(make_tiny_policy(CONFIG, TOKENIZER, seed=1)) != policy_digest(first)


def test_an_entity_starts_nearer_to_its_class_than_to_any_other() -> None:
    weights = make_tiny_policy(CONFIG, TOKENIZER, seed=0).get_input_embeddings().weight.detach()
    directions = torch.nn.functional.normalize(weights, dim=1)
    texts = {index: TOKENIZER.decode([index]) for index in range(len(TOKENIZER))}
    classes = {i: text.strip(" :") for i, text in texts.items() if text.strip(" :") in CLASSES}
    assert sorted(classes.values()) == sorted(2 * CLASSES), "each as a word and with its colon"
    compared = 0
    for index, text in texts.items():
        match = re.fullmatch(r" ?([a-z]+) \d", text)
        if match is None:
            continue
        likeness = {i: float(directions[index] @ directions[i]) for i in classes}
        own = min(value for i, value in likeness.items() if classes[i] == match[1])
        others = max(value for i, value in likeness.items() if classes[i] != match[1])
        assert own > others, text
        compared += 1
    assert compared >= len(CLASSES) * 3
    assert len(directions.unique(dim=0)) == len(directions), "no two tokens start alike"
