"""What the vLLM tests share."""

from typing import Any

import scripted

from sdar.config.rollout import VllmConfig
from sdar.policy.log_probs import PolicyScorer, score_responses
from sdar.rollout.engines.vllm.engine import VllmEngine

LONGEST = 500


def trusted(policy: Any) -> Any:
    scorer = PolicyScorer(policy)
    return lambda prompts, responses: score_responses(scorer, prompts, responses).log_probs


def open_vllm(policy: Any, rank: int = 0) -> VllmEngine:
    engine = VllmEngine(
        policy,
        scripted.tokenizer(),
        VllmConfig(tolerance=1e-3),
        trusted=trusted(policy),
        longest=LONGEST,
        batch=16,
        rank=rank,
    )
    engine.take_weights(policy.state_dict().items(), 0)
    return engine


def prompts(count: int) -> list[list[int]]:
    """Prompts of very different lengths; some begin alike, some are equal."""
    tokenizer = scripted.tokenizer()
    texts = [scripted.TEXTS[i % 5] * (1 + i % 4) + f" turn {i // 2}" for i in range(count)]
    return [tokenizer(text)["input_ids"][: LONGEST - 40] for text in texts]
