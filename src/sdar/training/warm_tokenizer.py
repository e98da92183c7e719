"""The tokenizer of what a warm start trains: a pretrained model's, or the tiny policy's own."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sdar.config import ExperimentConfig, Layout
from sdar.environments.packages import environment_package
from sdar.errors import SdarError
from sdar.policy.chat import ChatFormat
from sdar.policy.tokenizer import train_tokenizer
from sdar.rollout.settings import longest_sequence


def read_warm_tokenizer(config: ExperimentConfig, layout: Layout) -> Any:
    """The tokenizer, before the weights are there. Raises `SdarError` where it, or the context of
    the model, will not do."""
    if config.policy.model == "tiny":
        return load_own_tokenizer(layout.demonstrations / "tokenizer")
    return pretrained_tokenizer(config)


def pretrained_tokenizer(config: ExperimentConfig) -> Any:
    """That of `policy.model`, read alone; None for the tiny policy. Raises `SdarError` where it
    cannot be used, or prompts may be beyond the model's context."""
    if config.policy.model == "tiny":
        return None
    from sdar.policy.loading import load_tokenizer  # with torch, which the tiny one does without

    return load_tokenizer(
        config.policy.model,
        trust_remote_code=config.policy.trust_remote_code,
        longest=longest_sequence(config),
    )


def train_own_tokenizer(config: ExperimentConfig, corpus: Iterable[str]) -> Any:
    """The tiny policy's, from the texts of the demonstrations."""
    tiny = config.policy.tiny
    names = environment_package(config.environment.name).names()
    return train_tokenizer(list(corpus), tiny.vocabulary, tiny.context, names)


def load_own_tokenizer(folder: Path) -> Any:
    """The tiny policy's, made with the demonstrations. Raises `SdarError` when it is missing or
    broken."""
    from transformers import AutoTokenizer

    try:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{name} is missing")
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever the libraries make of a damaged file
        reason = " ".join(str(error).split())[:200]
        raise SdarError(
            f"{folder} cannot be read ({reason}): make it with `sdar demonstrations`"
        ) from None
    ChatFormat.of(tokenizer)
    return tokenizer
