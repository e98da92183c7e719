"""Loading a policy, and trying out what it came with.

Any causal language model in Hugging Face format will do, see docs/models.md.
"""

import logging
from pathlib import Path
from typing import Any

import torch

from sdar.errors import SdarError
from sdar.files.paths import model_folder
from sdar.policy.chat import ChatFormat
from sdar.policy.log_probs import PolicyScorer
from sdar.policy.paths import scoring_path, set_fp32_head
from sdar.policy.pretrained import read_config, read_model, read_tokenizer
from sdar.policy.probe import find_scoring_path
from sdar.policy.sharing_probe import find_sharing

log = logging.getLogger("sdar.policy")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_policy(
    path_or_name: str | Path,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.float32,
    *,
    trust_remote_code: bool = False,
    longest: int | None = None,
    fp32_head: bool = False,
    share_prefixes: bool = True,
) -> tuple[Any, Any]:
    """Load `(model, tokenizer)`, in evaluation mode (no dropout), and try how it can be scored.

    `trust_remote_code`: run program code that comes with a model of a family that transformers does
    not know. `longest`: the most tokens of a prompt with its response. `fp32_head`: compute its
    logits in float32 (`policy.fp32_head`). `share_prefixes`: compute what sequences begin with in
    common once, if the model allows it (`policy.share_prefixes`). Raises `SdarError` when the
    folder is missing or unreadable, its weights are not whole and finite, its chat template is of
    no use, sequences are beyond the model's context, or no path scores the model exactly.
    """
    name = _name(path_or_name)
    torch_dtype = _DTYPES[dtype] if isinstance(dtype, str) else dtype
    model = read_model(name, torch_dtype, trust_remote_code)
    tokenizer = read_tokenizer(name, trust_remote_code)
    ChatFormat.of(tokenizer)
    _check_context(name, model.config, longest)
    model.eval().to(device)
    set_fp32_head(model, fp32_head)
    against = find_scoring_path(model, PolicyScorer, longest)
    if against:
        reason = next(iter(against.values()))
        family, path = model.config.model_type, scoring_path(model)
        log.info("policy: %s is scored on the %s path (fast: %s)", family, path, reason)
    alone = find_sharing(model, PolicyScorer, longest) if share_prefixes else None
    if alone is not None:
        family = model.config.model_type
        log.info("policy: common beginnings of a %s model are not shared: %s", family, alone)
    return model, tokenizer


def load_tokenizer(
    path_or_name: str | Path, *, trust_remote_code: bool = False, longest: int | None = None
) -> Any:
    """The tokenizer alone, for what is done before weights are loaded; refuses what `load_policy`
    would refuse of the tokenizer and the model's context."""
    name = _name(path_or_name)
    _check_context(name, read_config(name, trust_remote_code), longest)
    tokenizer = read_tokenizer(name, trust_remote_code)
    ChatFormat.of(tokenizer)
    return tokenizer


def _name(path_or_name: str | Path) -> str:
    folder = path_or_name if isinstance(path_or_name, Path) else model_folder(path_or_name)
    name = str(path_or_name if folder is None else folder)
    if folder is not None and not (folder / "config.json").is_file():
        raise SdarError(
            f"{name}: no policy there (config.json is missing); run the stage that writes it "
            "(sdar warm-start, or sdar train), or correct policy.model"
        )
    return name


def _check_context(name: str, config: Any, longest: int | None) -> None:
    context = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    if longest is not None and context is not None and longest > context:
        raise SdarError(
            f"{name}: a prompt with its response may have {longest} tokens, beyond the model's "
            f"context of {context} (max_position_embeddings): lower policy.max_prompt_tokens, "
            "policy.max_teacher_prompt_tokens or policy.max_response_tokens"
        )
