"""Muon in float32: momentum whose matrix updates are orthogonalised (Jordan et al., 2024).

For the hidden matrices of a small policy trained from scratch on a CPU, where the bfloat16
iteration of `torch.optim.Muon` is slow. Embedding, head, norms and biases stay with AdamW.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Coefficients of the quintic Newton-Schulz iteration, as published with Muon.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalise(matrices_NRC: Tensor, iterations: int = 5) -> Tensor:
    """Push the singular values of each matrix `[N, R, C]` towards 1, keeping singular vectors."""
    x = matrices_NRC
    flip = x.shape[1] > x.shape[2]
    if flip:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x.mT if flip else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum; the step is scaled by sqrt(max(1, rows / columns))."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            # Matrices of one shape go through the iteration together.
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                directions = []
                for parameter in parameters:
                    gradient = parameter.grad
                    assert gradient is not None
                    state = self.state[parameter]
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(parameter)
                    momentum = state["momentum"]
                    momentum.lerp_(gradient, 1 - group["momentum"])
                    directions.append(gradient.lerp(momentum, group["momentum"]))
                updates = orthogonalise(torch.stack(directions))
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-scale)


class MuonWithAdamW:
    """Muon for the hidden matrices of a policy, AdamW for embedding, head and norms, as one.

    Has the parts of an optimizer that a training loop and a checkpoint use.
    """

    def __init__(
        self,
        model: Any,
        *,
        matrix_learning_rate: float,
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        head = model.get_output_embeddings()
        ends = {
            id(module.weight)
            for module in model.modules()
            if isinstance(module, nn.Embedding) or module is head
        }
        matrices = [p for p in model.parameters() if p.ndim == 2 and id(p) not in ends]
        chosen = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in chosen]
        self.parts: tuple[torch.optim.Optimizer, ...] = (
            Muon(matrices, lr=matrix_learning_rate, weight_decay=weight_decay),
            torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
        )
        self._rates = (matrix_learning_rate, learning_rate)

    def scale_learning_rates(self, factor: float) -> None:
        for part, rate in zip(self.parts, self._rates, strict=True):
            for group in part.param_groups:
                group["lr"] = rate * factor

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
