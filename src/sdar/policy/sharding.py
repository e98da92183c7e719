"""FSDP2 (torch's `fully_shard`): each rank keeps a part of every weight, gradient and moment.

A layer's weights are gathered for the time it computes, so every pass is made by all ranks
together, as many times on each. The forward of the `PolicyScorer` is the only way in. accelerate
shards on GPUs alone; the same function here shards on GPUs and, for tests, on CPUs.
"""

import os
from typing import Any

import torch
import yaml
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from sdar.config import ExperimentConfig
from sdar.errors import SdarError
from sdar.policy.log_probs import PolicyScorer


def wants_sharding(config: ExperimentConfig, accelerator: Any) -> bool:
    """Whether ranks share the weights out among them, or each has its own copy.

    As accelerate's launcher says (`accelerate launch --config_file`), else the file in
    `execution.accelerate`, else: where ranks have GPUs.
    """
    if accelerator.num_processes == 1:
        return False
    told = os.environ.get("ACCELERATE_USE_FSDP")
    if told is not None:
        return told.lower() == "true"
    path = config.execution.accelerate
    if path is None:
        return bool(accelerator.device.type == "cuda")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        return str(settings["distributed_type"]) == "FSDP"
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise SdarError(
            f"execution.accelerate: {path} is no launch configuration with distributed_type "
            f"({' '.join(str(error).split())[:120]}); take one of config/accelerate, or null"
        ) from error


def shard(scorer: PolicyScorer, accelerator: Any) -> PolicyScorer:
    """Share the weights of a whole policy out, layer by layer; on the ranks' device then.

    Weights, gradients and their sums stay as they are (float32); under mixed precision what is
    gathered and computed is bfloat16. Gradients are summed over ranks, not averaged: the loss is
    divided by what the global batch is divided by.
    """
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    bf16 = accelerator.mixed_precision == "bf16"
    precision = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32 if bf16 else None
    )
    layers = scorer.model.model.layers
    # Embedding and head are the root's, so one that is tied stays one.
    for module in (*layers, scorer):
        # The root too: kept gathered after a pass without gradient, it would outlive an update.
        fully_shard(module, mesh=mesh, mp_policy=precision, reshard_after_forward=True)
    for module in (*layers, scorer):
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    return scorer.to(accelerator.device)
