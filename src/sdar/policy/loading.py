"""Loading a policy and turning chats into prompt tokens.

Any causal language model in Hugging Face format will do, see docs/models.md. Rendered prompts are
cached, because episodes of a group often share a prompt.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from sdar.errors import SdarError
from sdar.files.paths import model_folder
from sdar.policy.log_probs import PolicyScorer
from sdar.policy.pretrained import read_model, read_tokenizer
from sdar.policy.probe import find_scoring_path

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_policy(
    path_or_name: str | Path,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.float32,
    *,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """Load `(model, tokenizer)`, in evaluation mode (no dropout), and try how it can be scored.

    `trust_remote_code`: run program code that comes with a model of a family that transformers does
    not know. Raises `SdarError` when the folder is missing or unreadable, its weights are not whole
    and finite, there is no chat template, or no path scores the model exactly.
    """
    folder = path_or_name if isinstance(path_or_name, Path) else model_folder(path_or_name)
    name = str(path_or_name if folder is None else folder)
    if folder is not None and not (folder / "config.json").is_file():
        raise SdarError(
            f"{name}: no policy there (config.json is missing); run the stage that writes it "
            "(sdar warm-start, or sdar train), or correct policy.model"
        )
    torch_dtype = _DTYPES[dtype] if isinstance(dtype, str) else dtype
    model = read_model(name, torch_dtype, trust_remote_code)
    tokenizer = read_tokenizer(name, trust_remote_code)
    if not tokenizer.chat_template:
        raise SdarError(
            f"{name}: the tokenizer has no chat template; use an instruction-tuned model or add "
            "chat_template.jinja to its folder"
        )
    model.eval().to(device)
    find_scoring_path(model, PolicyScorer)
    return model, tokenizer


def end_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a response: the generation config's, and the tokenizer's own."""
    ends: set[int] = set()
    for source in (getattr(model, "generation_config", None), tokenizer):
        value = getattr(source, "eos_token_id", None)
        ends.update([value] if isinstance(value, int) else value or [])
    if not ends:
        raise SdarError(
            "the policy names no end-of-response token: set eos_token_id in its "
            "generation_config.json"
        )
    return frozenset(ends)


def render_prompt(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of a chat, with the assistant's header at the end and Qwen3's thinking mode off."""
    return list(_render(tokenizer, tuple((m["role"], m["content"]) for m in messages)))


@lru_cache(maxsize=1 << 14)
def _render(tokenizer: Any, messages: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
    text = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in messages],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def token_pieces(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """The text each token adds to the response; joined they are the whole text."""
    pieces, before = [], ""
    for count in range(1, len(token_ids) + 1):
        text = tokenizer.decode(token_ids[:count])
        # A token that ends inside a character decodes to a replacement mark until the next one.
        settled = text.rstrip("\ufffd") if count < len(token_ids) else text
        pieces.append(settled[len(before) :])
        before = settled if len(settled) > len(before) else before
    return pieces
