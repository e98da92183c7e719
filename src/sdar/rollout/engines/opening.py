"""Opening the engine that the configuration names."""

import logging
from pathlib import Path
from typing import Any

import torch

from sdar.config import ExperimentConfig
from sdar.policy.weights import is_sharded, named_full_weights
from sdar.rollout.engines.base import RemoteWeights
from sdar.rollout.engines.copied import CopiedEngine
from sdar.rollout.engines.probe import find_sampling_path
from sdar.rollout.engines.transformers_continuous import ContinuousTransformersEngine
from sdar.rollout.engines.vllm.probe import Trusted
from sdar.rollout.settings import longest_sequence

log = logging.getLogger("sdar.rollout")


def open_engine(
    config: ExperimentConfig,
    model: Any,
    tokenizer: Any,
    *,
    trusted: Trusted | None = None,
    folder: Path | None = None,
    rank: int = 0,
) -> Any:
    """A `RolloutEngine` for `model`.

    One with `RemoteWeights` needs `take_weights` first. `trusted` are the trainer's scores for its
    check; None: those of `model` in this process. `folder`, on a file system that servers see,
    holds the weights during their transfer. Raises `SdarError` when the engine cannot start.
    """
    rollout, policy = config.rollout, config.policy
    if rollout.engine == "transformers":
        longest = longest_sequence(config)
        if not is_sharded(model):
            path, against = find_sampling_path(
                ContinuousTransformersEngine, model, longest, rollout.static_decode
            )
            for quicker, reason in against.items():
                log.info("policy: not sampled on the %s path (%s), so %s", quicker, reason, path)
            return ContinuousTransformersEngine(model, tokenizer, longest=longest, path=path)
        dtype = getattr(torch, policy.dtype)
        return CopiedEngine(
            model,
            tokenizer,
            dtype=dtype,
            device=model.device,
            longest=longest,
            static=rollout.static_decode,
        )
    options: dict[str, Any] = {
        "trusted": trusted or local_scores(model),
        "longest": longest_sequence(config),
        "batch": rollout.batch,
        "dtype": policy.dtype,
        "rank": rank,
    }
    if rollout.vllm.servers:
        from sdar.rollout.engines.vllm.servers import VllmServers

        if folder is None:
            raise ValueError("servers take weights through a folder: give one")
        weights = folder / "engine-weights"
        return VllmServers(model, tokenizer, rollout.vllm, folder=weights, **options)
    from sdar.rollout.engines.vllm.engine import VllmEngine

    options["trust_remote_code"] = policy.trust_remote_code
    return VllmEngine(model, tokenizer, rollout.vllm, **options)


def open_filled_engine(config: ExperimentConfig, model: Any, tokenizer: Any, **more: Any) -> Any:
    """`open_engine`, with the weights that `model` has now."""
    engine = open_engine(config, model, tokenizer, **more)
    if isinstance(engine, RemoteWeights):
        engine.take_weights(named_full_weights(model), 0)
    return engine


def close_engine(engine: Any) -> None:
    """Give back what an engine holds beside the model, where it holds anything."""
    if hasattr(engine, "close"):
        engine.close()


def local_scores(model: Any) -> Trusted:
    """The log-probs of a model that is whole in this process."""
    from sdar.policy.log_probs import PolicyScorer, score_responses

    scorer = PolicyScorer(model)

    def trusted(prompts: list[list[int]], responses: list[list[int]]) -> torch.Tensor:
        scores = score_responses(
            scorer,
            prompts,
            responses,
            micro_batch=len(prompts),
            micro_batch_tokens=None,
            device=model.device,
        )
        return scores.log_probs

    return trusted
