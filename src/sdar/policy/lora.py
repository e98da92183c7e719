"""Low-rank adapters (LoRA, arXiv 2106.09685), made by peft within the model's own modules.

The model keeps its class and its layout; an adapted layer W becomes W + scale * B A with W frozen.
There is no dropout: what is sampled and what is trained are one policy. Without its adapters the
model is the policy that training began with: the reference, for no memory.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sdar.config.execution import LoraConfig
from sdar.errors import SdarError

ADAPTER = "default"
_BASE = ".base_layer."
_LORA = ".lora_"


def add_adapters(model: Any, config: LoraConfig, seed: int, key: str = "training.lora") -> None:
    """Freeze the model and give it adapters, whose first values are a function of `seed`: A is
    random and B is 0, so the policy is what it was. Raises `SdarError`, which names the `key` of
    `config`, without peft, or when `config.targets` names no layer of the model."""
    try:
        import peft
    except ImportError as error:
        raise SdarError(
            f"{key} needs peft: pip install 'sdar[lora]', or set {key} to null"
        ) from error
    targets = config.targets if isinstance(config.targets, str) else list(config.targets)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=0.0,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            peft.inject_adapter_in_model(settings, model, adapter_name=ADAPTER)
        except ValueError as error:
            reason = " ".join(str(error).split())[:200]
            raise SdarError(
                f"{key}.targets: {reason}; name linear layers of the policy, such as "
                "q_proj, or set it to all-linear"
            ) from error
    _refuse_other_layers(model, key)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_LORA in name)


def _refuse_other_layers(model: Any, key: str) -> None:
    """An embedding's or a convolution's adapter is no product of two matrices to be added."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in model.named_modules():
        if isinstance(layer, BaseTunerLayer):
            base = layer.get_base_layer()
            if not isinstance(base, nn.Linear | Conv1D):
                raise SdarError(
                    f"{key}.targets: {name} is a {type(base).__name__}, no linear layer: "
                    "name linear layers of the policy, such as q_proj, or set it to all-linear"
                )


def has_adapters(model: Any) -> bool:
    """Whether `add_adapters` was called on the model."""
    return any(_LORA in name for name, _ in model.named_parameters())


@contextmanager
def without_adapters(model: Any) -> Iterator[None]:
    """A block in which the model is the policy that training began with."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    for layer in adapted:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in adapted:
            layer.enable_adapters(True)


def merged_weights(model: Any, whole: Callable[[Tensor], Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The model's state with its adapters added into the weights they adapt; `whole` gives the full
    tensor of a value of the state."""
    state = model.state_dict()
    for name, value in state.items():
        if _LORA in name:
            continue
        full = whole(value)
        if name.endswith(f"{_BASE}weight"):
            layer = name.removesuffix(f"{_BASE}weight")
            down, up = (whole(state[f"{layer}{_LORA}{part}.{ADAPTER}.weight"]) for part in "AB")
            adapted = model.get_submodule(layer.removesuffix("."))
            delta = adapted.scaling[ADAPTER] * (up @ down)
            # GPT-2's layers have their weights the other way round.
            full = full + (delta.T if adapted.fan_in_fan_out else delta).to(full.dtype)
        yield name.replace(_BASE, "."), full
