"""Token-by-token scores of recorded episodes: the same weights with and without the skill."""

from collections.abc import Sequence
from typing import Any

import torch

from sdar.algorithms.gates import compute_gate
from sdar.config import ExperimentConfig
from sdar.evaluation.records import ScoredTurn
from sdar.policy.log_probs import PolicyScorer, score_responses
from sdar.rollout.collector import fit_prompt
from sdar.rollout.episode import Episode


def score_episode(
    model: Any,
    tokenizer: Any,
    episode: Episode,
    skill_text: str,
    config: ExperimentConfig,
    *,
    device: torch.device | str = "cpu",
) -> list[ScoredTurn]:
    """Log-probs (nats, temperature 1) of the sampled tokens under both prompts, and the gate.

    The student's prompt never holds the skill and the teacher's always does, whichever the episode
    was played with; both are made from the turn's own history, observation and admissible actions.
    The gate is the experiment's `training.distillation`, also for methods that train without one.
    """
    student = [_prompt(tokenizer, episode, index, None, config) for index in _turns(episode)]
    teacher = [_prompt(tokenizer, episode, index, skill_text, config) for index in _turns(episode)]
    responses = [turn.response_ids for turn in episode.turns]
    distillation = config.training.distillation
    needs_entropy = distillation.gate in ("entropy", "soft_or")
    scorer = PolicyScorer(model)
    student_scores = score_responses(
        scorer, student, responses, entropy=needs_entropy, device=device
    )
    teacher_scores = score_responses(scorer, teacher, responses, device=device)
    gate_SR = compute_gate(
        distillation.gate,
        teacher_scores.log_probs - student_scores.log_probs,
        beta=distillation.beta,
        entropy=student_scores.entropy,
    )
    return [
        ScoredTurn(
            pieces=token_pieces(tokenizer, ids),
            student_log_probs=student_scores.log_probs[row, : len(ids)].tolist(),
            teacher_log_probs=teacher_scores.log_probs[row, : len(ids)].tolist(),
            gates=gate_SR[row, : len(ids)].tolist(),
            student_prompt=tokenizer.decode(student[row]),
            teacher_prompt=tokenizer.decode(teacher[row]),
        )
        for row, ids in enumerate(responses)
    ]


def token_pieces(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """The text each token adds; joined they are the decoded response.

    A character cut over several tokens (bytes of one emoji) belongs to the token that ends it.
    """
    pieces, done = [], ""
    for end in range(1, len(token_ids) + 1):
        text = tokenizer.decode(token_ids[:end], skip_special_tokens=False)
        if end < len(token_ids):
            # Bytes that are no character yet decode to the replacement character.
            text = text.rstrip("\ufffd")
        pieces.append(text[len(done) :] if text.startswith(done) else "")
        done = text if text.startswith(done) else done
    return pieces


def _turns(episode: Episode) -> range:
    return range(len(episode.turns))


def _prompt(
    tokenizer: Any, episode: Episode, index: int, skill: str | None, config: ExperimentConfig
) -> list[int]:
    turn = episode.turns[index]
    key = "max_prompt_tokens" if skill is None else "max_teacher_prompt_tokens"
    _, prompt_ids, _ = fit_prompt(
        tokenizer,
        config.environment.name,
        episode.task,
        turn.history,
        turn.observation,
        turn.admissible_actions,
        turn.index,
        skill,
        limit=getattr(config.policy, key),
        limit_key=f"policy.{key}",
    )
    return prompt_ids
