"""What a warm start trains: the tiny policy, made here, or a pretrained model, on its devices."""

from dataclasses import dataclass
from typing import Any

import torch

from sdar.config import ExperimentConfig
from sdar.errors import SdarError
from sdar.policy.loading import load_policy
from sdar.policy.log_probs import PolicyScorer
from sdar.policy.lora import add_adapters
from sdar.policy.recomputation import recompute_layers
from sdar.policy.sharding import wants_sharding
from sdar.policy.sharing_probe import find_sharing
from sdar.policy.tiny import make_tiny_policy
from sdar.policy.weights import policy_digest
from sdar.ranks.ranks import Ranks
from sdar.rollout.settings import longest_sequence
from sdar.training.muon import MuonWithAdamW
from sdar.training.optimizer import make_optimizer
from sdar.training.placed import PlacedPolicy, place


@dataclass(frozen=True)
class WarmPolicy:
    """The policy with its optimizer. `digest` is that of the weights it begins with."""

    placed: PlacedPolicy
    tokenizer: Any
    optimizer: Any
    digest: str


def open_warm_policy(
    config: ExperimentConfig, tokenizer: Any, accelerator: Any, ranks: Ranks
) -> WarmPolicy:
    """Make the tiny policy for `tokenizer`, or load `policy.model` as `sdar train` would, and put
    it on its devices. Raises `SdarError` where the model or the optimizer will not do."""
    settings, chosen = config.warm_start, config.chosen_warm_start
    if config.policy.model == "tiny":
        model: Any = make_tiny_policy(config.policy.tiny, tokenizer, settings.seed)
        if config.policy.share_prefixes:
            find_sharing(model, PolicyScorer)
        digest = policy_digest(model)
        placed = PlacedPolicy(model, PolicyScorer(model), config, accelerator, ranks, False)
        placed.scorer.train()
        return WarmPolicy(placed, tokenizer, _optimizer(config, model), digest)
    sharded = wants_sharding(config, accelerator)
    if sharded and chosen.optimizer == "muon":
        raise SdarError(
            "warm_start.optimizer is muon, which needs whole matrices, and each rank holds a part "
            "of them: set it to adamw, or execution.processes and execution.nodes to 1"
        )
    model, tokenizer = load_policy(
        config.policy.model,
        torch.device("cpu") if sharded else accelerator.device,
        torch.float32,
        trust_remote_code=config.policy.trust_remote_code,
        longest=longest_sequence(config),
        fp32_head=config.policy.fp32_head,
        share_prefixes=config.policy.share_prefixes,
    )
    digest = policy_digest(model)
    if settings.lora is not None:
        add_adapters(model, settings.lora, settings.seed, "warm_start.lora")
    if config.training.activation_checkpointing:
        recompute_layers(model)
    # What is shown is learned as it is, whatever temperature it is sampled at later.
    scorer = place(model, config, accelerator, sharded, temperature=1.0)
    placed = PlacedPolicy(model, scorer, config, accelerator, ranks, sharded)
    return WarmPolicy(placed, tokenizer, _optimizer(config, model), digest)


def _optimizer(config: ExperimentConfig, model: Any) -> Any:
    settings, chosen = config.warm_start, config.chosen_warm_start
    if chosen.optimizer == "adamw":
        return make_optimizer(model, chosen.learning_rate, settings.weight_decay)
    return MuonWithAdamW(
        model,
        matrix_learning_rate=settings.matrix_learning_rate,
        learning_rate=chosen.learning_rate,
        weight_decay=settings.weight_decay,
    )
