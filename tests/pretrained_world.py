"""A small random model, saved as pretrained ones are, and an experiment that begins with it."""

from pathlib import Path
from typing import Any

import chat_templates
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sdar.config import ExperimentConfig, parse_config

WARM_START: dict[str, Any] = {
    "updates": 8,
    "warmup": 2,
    "batch": 6,
    "micro_batch": 4,
    "learning_rate": 3e-3,
    "checkpoint_every": 3,
    "demonstrations": {"worlds": 2, "episodes": 12, "openings": 4},
}
DAGGER = {"rounds": 1, "episodes": 3, "updates": 4}
LORA = {"rank": 4, "alpha": 8}


def save_model(folder: Path, template: str = "qwen2.5", family: str = "qwen2", **more: Any) -> Path:
    """A random model of `family` with the tokenizer of `template`."""
    tokenizer = chat_templates.tokenizer(template)
    values = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "eos_token_id": tokenizer.convert_tokens_to_ids(chat_templates.closing(template)),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(values | more)))
    model.float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def configuration(
    model: Path, values: dict[str, dict[str, Any]] | None = None, **warm_start: Any
) -> ExperimentConfig:
    """The warm start of `model` on generated questions; `values` over the sections."""
    sections: dict[str, Any] = {
        "environment": {"name": "searchqa", "max_turns": 3},
        "policy": {
            "model": str(model),
            "max_prompt_tokens": 1000,
            "max_teacher_prompt_tokens": 1600,
            "max_response_tokens": 128,
        },
        "rollout": {"batch": 4},
        "training": {"minibatch": 8, "micro_batch": 4},
        "tracking": {"enabled": False},
        "execution": {"device": "cpu"},
        "warm_start": WARM_START | warm_start,
    }
    for name, section in (values or {}).items():
        sections[name] = sections.get(name, {}) | section
    return parse_config({"experiment": "pretrained", **sections})
