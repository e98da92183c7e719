"""The tiny policy: a real Qwen3 made from scratch, saved as any Hugging Face model is."""

import re

import torch
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from sdar.config.models import TinyPolicyConfig


def make_tiny_policy(
    config: TinyPolicyConfig, tokenizer: PreTrainedTokenizerBase, seed: int
) -> Qwen3ForCausalLM:
    """A `Qwen3ForCausalLM` with random weights (a function of `seed`) for this tokenizer."""
    # A multiple of 16: matrix products of such a width are fast.
    rows = -(-len(tokenizer) // 16) * 16
    qwen3 = Qwen3Config(
        vocab_size=rows,
        hidden_size=config.hidden,
        intermediate_size=config.intermediate,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.hidden // config.heads,
        max_position_embeddings=config.context,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        use_cache=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(qwen3)
        _relate_entities(model.get_input_embeddings().weight.data, tokenizer)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.float()


_ENTITY = re.compile(r"\s?([a-z]+) (\d+)")
# Wide enough that the first updates do not wash out what is put in here.
_EMBEDDING_STD = 0.1


def _relate_entities(embeddings_VD: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> None:
    """Start the embedding of an entity ("egg 2") as its class's ("egg") plus its number's.

    One token per entity keeps prompts short, but a policy that has to learn from scratch that
    "egg 2" is an egg takes things nobody asked for (docs/log.md). V tokens, D hidden size.
    """
    embeddings_VD.normal_(std=_EMBEDDING_STD)
    texts = {index: tokenizer.decode([index]) for index in range(len(tokenizer))}
    numbers: dict[str, torch.Tensor] = {}
    classes: dict[str, torch.Tensor] = {}
    for index, text in texts.items():
        if re.fullmatch(r"\s?[a-z]+:?", text):
            vector = classes.setdefault(text.strip(" :"), embeddings_VD[index].clone())
            embeddings_VD[index] = vector + 0.3 * (embeddings_VD[index] - vector)
    for index, text in texts.items():
        match = _ENTITY.fullmatch(text)
        if match is None:
            continue
        name, number = match.groups()
        first = torch.randn_like(embeddings_VD[index]) * _EMBEDDING_STD
        kind = classes.setdefault(name, first)
        count = numbers.setdefault(number, embeddings_VD[index].clone())
        embeddings_VD[index] = kind + 0.6 * count
