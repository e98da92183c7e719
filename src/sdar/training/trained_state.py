"""The trained state in files: the same for any number of ranks, sharded or not.

Weights that are trained (with LoRA: the adapters alone) by name, and the optimizer's state by the
order of parameters. A checkpoint of N ranks is continued on M.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from sdar.errors import SdarError
from sdar.policy.weights import whole

State = tuple[dict[str, Tensor], dict[str, Any]]
_OWN = ("fused", "foreach", "capturable")
WEIGHTS, OPTIMIZER = "model.safetensors", "optimizer.pt"


def trained_state(model: Any, optimizer: Any, keep: bool = True) -> State:
    """Weights and optimizer state in full. All ranks call it; those without `keep`, which will not
    write it, hold none of it."""
    weights = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            value = _kept(parameter, keep)
            if keep:
                weights[name] = value
    return weights, _in_full(optimizer.state_dict(), keep)


def write_state(folder: Path, state: State) -> None:
    weights, of_optimizer = state
    save_file({n: w.contiguous() for n, w in weights.items()}, folder / WEIGHTS)
    torch.save(of_optimizer, folder / OPTIMIZER)


def read_state(folder: Path, model: Any, optimizer: Any) -> None:
    """Put what `write_state` wrote into `model` and `optimizer`, in place. Every rank reads."""
    saved = load_file(folder / WEIGHTS)
    # A tied weight has several names; a file may have been written under any of them.
    named = dict(model.named_parameters(remove_duplicate=False))
    missing = {id(p) for p in named.values() if p.requires_grad}
    with torch.no_grad():
        for name, value in saved.items():
            if name in named:
                named[name].copy_(_like(value, named[name]))
                missing.discard(id(named[name]))
    if missing:
        raise SdarError(
            f"{folder / WEIGHTS}: holds other weights than the policy has; remove the folder to "
            "begin anew"
        )
    # Mapped, so that ranks of one machine that read the same file hold it once.
    state = torch.load(folder / OPTIMIZER, map_location="cpu", mmap=True, weights_only=True)
    if "parts" in state:  # the warm start's: an optimizer of several
        for part, saved_part in zip(optimizer.parts, state["parts"], strict=True):
            _restore(part, saved_part)
    else:
        _restore(optimizer, state)


def not_finite(folder: Path) -> str | None:
    """The file and name of a saved value that is NaN or infinite, or None."""
    for name, value in load_file(folder / WEIGHTS).items():
        if not torch.isfinite(value).all():
            return f"{WEIGHTS}: {name}"
    state = torch.load(folder / OPTIMIZER, map_location="cpu", mmap=True, weights_only=True)
    for part in state.get("parts", [state]):
        for of_parameter in part["state"].values():
            for name, value in of_parameter.items():
                if isinstance(value, Tensor) and not torch.isfinite(value).all():
                    return f"{OPTIMIZER}: {name}"
    return None


def _in_full(state: dict[str, Any], keep: bool) -> dict[str, Any]:
    """An optimizer's state with whole tensors; of an optimizer of several, each one's."""
    if "parts" in state:
        return {"parts": [_in_full(part, keep) for part in state["parts"]]}
    moments = {
        index: {
            name: _kept(value, keep) if isinstance(value, Tensor) else value
            for name, value in of_parameter.items()
        }
        for index, of_parameter in state["state"].items()
    }
    return {**state, "state": moments}


def _restore(optimizer: Any, state: dict[str, Any]) -> None:
    """Give one optimizer the state it had, laid out as its parameters are. How it takes a step
    (fused, in groups) stays its own: that goes by the device, which may be another one."""
    for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True):
        saved.update({key: own[key] for key in _OWN if key in own})
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, of_parameter in state["state"].items():
        for name, value in of_parameter.items():
            if isinstance(value, Tensor):
                of_parameter[name] = (
                    _like(value, parameters[index])
                    if value.shape == parameters[index].shape
                    else value.clone()
                )
    optimizer.load_state_dict(state)


def _kept(value: Tensor, keep: bool) -> Tensor:
    full = whole(value)
    return full.cpu() if keep else full.new_empty(0)


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """A copy on the parameter's device, laid out over the ranks as the parameter is."""
    value = value.to(parameter.device, copy=True)
    if not isinstance(parameter, DTensor):
        return value
    # Every rank has read it all: each takes its part, and nothing is sent.
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
