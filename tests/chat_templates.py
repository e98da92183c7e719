"""Chat templates in the form of well-known families', and tokenizers to go with them."""

import string
from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

_TEXTS = (
    "You are in a room. Your task is to: find the key.\n\nLooking around, you see a shelf.",
    "You are a model named Test, and you help.\n\nLook at the shelf first.\n\nYou are near it.",
    "Which way is it? 7 apples, please. Left, then left again. Look around first.",
    "<think>The key is in the fridge.</think><action>go to fridge</action>",
    "Now, at turn 2, you see: a drawer. You can: ['go to shelf', 'open fridge', 'look']",
    "system\nuser\nassistant\nmodel\nCutting Knowledge Date: December 2023",
    "Today Date: 26 Jul 2024",
)

_CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}{{ DEFAULT }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_DEFAULT = "'<|im_start|>system\nYou are a model named Test, and you help.<|im_end|>\n'"

TEMPLATES = {
    "qwen2.5": _CHATML.replace("DEFAULT", _DEFAULT),
    "qwen3": _CHATML.replace("DEFAULT", "''").replace(
        "{{ '<|im_start|>assistant\n' }}",
        "{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and not enable_thinking %}"
        "{{ '<think>\n\n</think>\n\n' }}{% endif %}",
    ),
    "thinking": _CHATML.replace("DEFAULT", "''").replace("assistant\n'", "assistant\n<think>\n'"),
    "no header": _CHATML.replace("DEFAULT", "''").partition("{% if add_generation_prompt %}")[0],
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for message in messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
        "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
        "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    "llama3": (
        "{{- bos_token }}\n"
        "{%- if not date_string is defined %}"
        "{%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y') %}"
        "{%- else %}{%- set date_string = '1 Jan 1970' %}{%- endif %}{%- endif %}\n"
        "{%- if messages[0]['role'] == 'system' %}"
        "{%- set told = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}"
        "{%- else %}{%- set told = '' %}{%- endif %}"
        "{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}"
        "{{- 'Cutting Knowledge Date: December 2023\n' }}"
        "{{- 'Today Date: ' + date_string + '\n\n' }}{{- told }}{{- '<|eot_id|>' }}"
        "{%- for message in messages %}"
        "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
        "{{- message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
        "{%- if add_generation_prompt %}"
        "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
    ),
    "mistral": (
        "{%- if messages[0]['role'] == 'system' %}"
        "{%- set told = messages[0]['content'] + '\n\n' %}{%- set messages = messages[1:] %}"
        "{%- else %}{%- set told = '' %}{%- endif %}{{- bos_token }}"
        "{%- for message in messages %}{%- if message['role'] == 'user' %}"
        "{{- '[INST] ' + (told if loop.last else '') + message['content'] + '[/INST]' }}"
        "{%- else %}{{- ' ' + message['content'] + eos_token }}{%- endif %}{%- endfor %}"
    ),
    "phi3": (
        "{% for message in messages %}"
        "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    "deepseek": (
        "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}"
        "{% endif %}{% set ns = namespace(told='') %}{% for message in messages %}"
        "{% if message['role'] == 'system' %}{% set ns.told = message['content'] %}{% endif %}"
        "{% endfor %}{{ bos_token }}{{ ns.told }}{% for message in messages %}"
        "{% if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}{% endif %}"
        "{% if message['role'] == 'assistant' %}"
        "{{ '<｜Assistant｜>' + message['content'].split('</think>')[-1] + eos_token }}"
        "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
    ),
    "llama2": (
        "{% if messages[0]['role'] == 'system' %}"
        "{% set told = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
        "{% set messages = messages[1:] %}{% else %}{% set told = '' %}{% endif %}"
        "{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + (told if loop.first else '') }}"
        "{{ message['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
}
_CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
TOKENS = {
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "mistral": ("[INST]", "[/INST]"),
    "phi3": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    "deepseek": ("<｜User｜>", "<｜Assistant｜>"),
    "llama2": (),
}
CLOSING = {
    "gemma": "<end_of_turn>",
    "llama3": "<|eot_id|>",
    "mistral": "<eos>",
    "phi3": "<|end|>",
    "deepseek": "<eos>",
    "llama2": "<eos>",
}


def closing(family: str) -> str:
    """The token that closes an assistant's message."""
    return CLOSING.get(family, "<|im_end|>")


@cache
def tokenizer(family: str, kind: str = "bytes", special: bool = True, normalizer: str = "") -> Any:
    """A tokenizer with a family's template. `kind`: `bytes` as Qwen's and Llama 3's (".\\n\\n" is
    one token), or `pieces` as SentencePiece's (a word has the space before it, unknown letters are
    unknown). The markers are no special tokens where not `special`."""
    made = with_template(TEMPLATES[family], TOKENS.get(family, _CHATML_TOKENS), kind, special)
    if normalizer:
        made.backend_tokenizer.normalizer = getattr(normalizers, normalizer)()
    return made


def with_template(
    template: str,
    markers: tuple[str, ...] = _CHATML_TOKENS,
    kind: str = "bytes",
    special: bool = True,
) -> Any:
    """A tokenizer of its own with this template."""
    own = ["<unk>", "<bos>", "<eos>", "<pad>"]
    if kind == "bytes":
        raw = Tokenizer(models.BPE())
        cut = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+")
        raw.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(cut, "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        raw.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        raw = Tokenizer(models.BPE(unk_token="<unk>"))
        raw.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
        raw.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="first")
        alphabet = list(string.printable)
    raw.train_from_iterator(
        _TEXTS * 3,
        BpeTrainer(
            vocab_size=700, special_tokens=own, initial_alphabet=alphabet, show_progress=False
        ),
    )
    add = raw.add_special_tokens if special else raw.add_tokens
    add([AddedToken(marker, special=special, normalized=False) for marker in markers])
    raw.add_tokens([AddedToken(tag, normalized=False) for tag in ("<think>", "</think>")])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = template
    return fast
