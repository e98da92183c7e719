"""Reading models and tokenizers that others made: no code of theirs runs unasked, and no weight is
missing, pickled or not a number.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from sdar.errors import SdarError

Read = TypeVar("Read")
_NO_SDPA = "scaled_dot_product_attention"
_OWN_CODE = "trust_remote_code=True"


def read_model(name: str, dtype: torch.dtype, trust_remote_code: bool = False) -> Any:
    """The causal language model in a folder or on the hub, on the CPU: with SDPA attention, or the
    plain one where its family has no other.

    Raises `SdarError` for what cannot be read, and for weights that are not all there and finite.
    """
    _refuse_pickles(Path(name))
    if (Path(name) / "adapter_config.json").is_file():
        raise SdarError(
            f"{name}: this folder holds an adapter (adapter_config.json): merge it into its model "
            "(merge_and_unload of peft), and set policy.model to that"
        )

    def read(attention: str) -> Any:
        return AutoModelForCausalLM.from_pretrained(
            name,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )

    def read_either() -> Any:
        _read_generation_config(Path(name))
        try:
            return read("sdpa")
        except ValueError as error:
            if _NO_SDPA not in str(error):
                raise
            return read("eager")

    model, found = _or_refuse(name, read_either)
    if getattr(model.config, "quantization_config", None) is not None:
        raise SdarError(
            f"{name}: its weights are quantised, and such a policy cannot be trained: set "
            "policy.model to the same model in bfloat16 or float32"
        )
    absent = sorted(found["missing_keys"])
    if absent:
        raise SdarError(
            f"{name}: {len(absent)} of the model's weights are not in its files, such as "
            f"{absent[0]}; they would be random: get the whole model, or correct policy.model"
        )
    _refuse_not_finite(name, model)
    return model


def read_tokenizer(name: str, trust_remote_code: bool = False) -> Any:
    """The tokenizer in a folder or on the hub. Raises `SdarError` when it cannot be read, or when
    what it does with texts would be guessed."""
    folder = Path(name)
    if folder.is_dir() and not (folder / "tokenizer_config.json").is_file():
        raise SdarError(
            f"{name}: tokenizer_config.json is missing, without which texts become other tokens: "
            "get the whole model, or correct policy.model"
        )
    return _or_refuse(
        name, lambda: AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    )


def read_config(name: str, trust_remote_code: bool = False) -> Any:
    """The model's configuration alone. Raises `SdarError` when it cannot be read."""
    return _or_refuse(
        name, lambda: AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    )


def _or_refuse(name: str, read: Callable[[], Read]) -> Read:
    try:
        return read()
    except torch.OutOfMemoryError:
        raise
    # Whatever a broken file makes of the libraries that read it.
    except Exception as error:
        if _OWN_CODE in str(error):
            raise SdarError(
                f"{name}: this model comes with program code of its own (auto_map), which is not "
                "run: set policy.model to one that transformers knows or, if you trust the code's "
                "authors, policy.trust_remote_code to true"
            ) from error
        reason = " ".join(str(error).split())[:300]
        raise SdarError(
            f"{name}: the policy cannot be loaded ({type(error).__name__}: {reason}); expected a "
            "Hugging Face folder with config.json, model.safetensors and tokenizer.json: check "
            "policy.model"
        ) from error


def _read_generation_config(folder: Path) -> None:
    """Raise what makes it unreadable; transformers would go on without, and without its ends."""
    file = folder / GENERATION_CONFIG_NAME
    if file.is_file():
        GenerationConfig.from_pretrained(folder)


def _refuse_pickles(folder: Path) -> None:
    """A pickle is a program, and weights as old as that lack the rest of a folder of today, too."""
    pickles = sorted(folder.glob("pytorch_model*.bin")) if folder.is_dir() else []
    if pickles and not any(folder.glob("*.safetensors")):
        raise SdarError(
            f"{pickles[0]}: pickled weights are not read, because a pickle can run code: save the "
            "model as safetensors (save_pretrained of transformers does), or correct policy.model"
        )


@torch.no_grad()
def _refuse_not_finite(name: str, model: Any) -> None:
    for key, value in model.state_dict().items():
        # A sum is finite if all values are, unless it overflows; only then look at each.
        if not torch.isfinite(value.sum()) and not bool(torch.isfinite(value).all()):
            count = int((~torch.isfinite(value)).sum())
            raise SdarError(
                f"{name}: {count} value(s) of the weight {key} are not finite (NaN or infinite): "
                "the file is broken or its training diverged; get it anew, or correct policy.model"
            )
