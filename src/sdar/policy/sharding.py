"""FSDP2 (torch's `fully_shard`): each rank keeps a part of every weight, gradient and moment.

A layer's weights are gathered while it computes, so all ranks make every pass together, equally
many each. The forward of the `PolicyScorer` is the only way in. accelerate shards on GPUs alone;
this also shards on CPUs, for tests.
"""

import os
from typing import Any

import torch
import yaml
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from sdar.config import ExperimentConfig
from sdar.errors import SdarError
from sdar.policy.layers import decoder_layers
from sdar.policy.log_probs import PolicyScorer
from sdar.policy.paths import scoring_path


def wants_sharding(config: ExperimentConfig, accelerator: Any) -> bool:
    """Whether each rank holds a part of the weights, or a copy of them.

    As accelerate's launcher says (`accelerate launch --config_file`), else the file in
    `execution.accelerate`; else it is so where ranks have GPUs.
    """
    if accelerator.num_processes == 1:
        return False
    launched = os.environ.get("ACCELERATE_USE_FSDP")
    if launched is not None:
        return launched.lower() == "true"
    path = config.execution.accelerate
    if path is None:
        return bool(accelerator.device.type == "cuda")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        return str(settings["distributed_type"]) == "FSDP"
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
        raise SdarError(
            f"execution.accelerate: {path} is no launch configuration with distributed_type "
            f"({' '.join(str(error).split())[:120]}); take one of config/accelerate, or null"
        ) from error


def shard(scorer: PolicyScorer, accelerator: Any) -> PolicyScorer:
    """Divide the weights of a whole policy among the ranks, layer by layer, on their devices.

    Weights, gradients and their sums stay float32; under mixed precision what is gathered and
    computed is bfloat16. Gradients are summed over ranks, not averaged: the loss already has the
    global batch's denominator.

    Raises `SdarError` for a policy that is scored one sequence after the other: ranks would not
    make equally many passes.
    """
    if scoring_path(scorer.model) == "single":
        raise SdarError(
            f"execution.accelerate: a {scorer.model.config.model_type} model is scored one "
            "sequence after the other, and then its weights cannot be shared over ranks: set "
            "execution.processes to 1, or take a model of another family (docs/models.md)"
        )
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    bf16 = accelerator.mixed_precision == "bf16"
    precision = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32 if bf16 else None
    )
    layers = decoder_layers(scorer.model, "execution.accelerate (FSDP)")
    # Embedding and head are the root's, so one that is tied stays one.
    for module in (*layers, scorer):
        # The root too: kept gathered after a pass without gradient, it would outlive an update.
        fully_shard(module, mesh=mesh, mp_policy=precision, reshard_after_forward=True)
    for module in (*layers, scorer):
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    return scorer.to(accelerator.device)
