"""How weights are updated from gradients: AdamW, clipping, and the learning rate of a step."""

from collections.abc import Iterable
from typing import Any

import torch

from sdar.config import ExperimentConfig
from sdar.policy.weights import whole


class AdamW(torch.optim.AdamW):
    """PyTorch's, with a learning rate that can be scaled."""

    def scale_learning_rates(self, factor: float) -> None:
        """Let the next steps have this factor on the learning rate that was given."""
        for group in self.param_groups:
            group["lr"] = self.defaults["lr"] * factor


def make_optimizer(model: Any, learning_rate: float, weight_decay: float) -> AdamW:
    """AdamW; weight decay on matrices alone."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return AdamW(
        [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=learning_rate,
        fused=can_fuse(parameters),
    )


def can_fuse(parameters: Iterable[torch.Tensor]) -> bool | None:
    """Whether a step is one kernel for many weights: on CUDA, where steps are bound by launches.
    None elsewhere: as PyTorch has it."""
    return True if {p.device.type for p in parameters} == {"cuda"} else None


def clip_gradients(parameters: Iterable[torch.Tensor], most: float) -> float:
    """Scale gradients down to norm `most`; the norm they had. Where they are sharded, the norm is
    over all ranks and all call together."""
    clipped = [parameter for parameter in parameters if parameter.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm([p.grad for p in clipped if p.grad is not None]))
    torch.nn.utils.clip_grads_with_norm_(clipped, most, norm)
    return float(norm)


def learning_rate_at(step: int, config: ExperimentConfig) -> float:
    """Constant after a linear warm-up over the first `warmup_ratio` of the steps."""
    training = config.training
    warmup = round(training.warmup_ratio * training.steps)
    return training.learning_rate * min(1.0, (step + 1) / warmup if warmup else 1.0)
