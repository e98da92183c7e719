"""What is recorded of an episode beside its tokens: the same weights' log-probs with and without
the skill, and what the expert, the greedy student and the greedy teacher would have done."""

from typing import Any

import torch

from sdar.algorithms.gates import compute_gate
from sdar.config import ExperimentConfig
from sdar.environments.base import EnvironmentPackage
from sdar.environments.packages import environment_package
from sdar.evaluation.second_opinions import expert_actions, greedy_actions
from sdar.evaluation.token_rows import ScoredTurn
from sdar.methods.gates import GATES
from sdar.policy.chat import token_pieces
from sdar.policy.log_probs import PolicyScorer, score_responses
from sdar.policy.reproducible import exact_kernels
from sdar.records.tables import skill_in
from sdar.rollout.engines.base import RolloutEngine
from sdar.rollout.episode import Episode, Prompt
from sdar.rollout.teacher import Teaching
from sdar.rollout.turns import fit_prompt
from sdar.skills.library import SkillLibrary


def score_episode(
    model: Any,
    tokenizer: Any,
    episode: Episode,
    skills: SkillLibrary,
    config: ExperimentConfig,
    *,
    engine: RolloutEngine,
    device: torch.device | str = "cpu",
) -> list[ScoredTurn]:
    """Log-probs (nats, temperature 1) of the sampled tokens under both prompts, and the gate.

    The student's prompt never holds the skill and the teacher's always does, whichever the episode
    was played with; both are made from the turn's own history, observation and admissible actions.
    The gate is the experiment's `training.distillation`, also for methods that train without one.
    `engine` samples the greedy actions; the expert knows what the skills tell (`skills.knowledge`).
    """
    package = environment_package(config.environment.name)
    shown = _student_prompts(tokenizer, package, episode, config.policy.max_prompt_tokens)
    student = [prompt.token_ids for prompt in shown]
    teaching = Teaching(tokenizer, package, skills, config.policy.max_teacher_prompt_tokens)
    taught = [
        teaching.prompt(episode.task, turn, prompt.cut)
        for turn, prompt in zip(episode.turns, shown, strict=True)
    ]
    teacher = [entry.prompt.token_ids for entry in taught]
    responses = [turn.response_ids for turn in episode.turns]
    distillation = config.training.distillation
    needs_entropy = GATES[distillation.gate].reads_entropy
    scorer = PolicyScorer(model)
    with exact_kernels(torch.device(device), config.execution.deterministic):
        of_student = score_responses(
            scorer, student, responses, entropy=needs_entropy, device=device
        )
        of_teacher = score_responses(scorer, teacher, responses, device=device)
    gate_SR = compute_gate(
        distillation.gate,
        of_teacher.log_probs - of_student.log_probs,
        beta=distillation.beta,
        entropy=of_student.entropy,
    )
    student_greedy, teacher_greedy = (
        greedy_actions(
            engine,
            tokenizer,
            package,
            prompts,
            max_new_tokens=config.policy.max_response_tokens,
            batch=config.rollout.batch,
        )
        for prompts in (student, teacher)
    )
    expert = expert_actions(package, episode, skills.knowledge)
    return [
        ScoredTurn(
            pieces=token_pieces(tokenizer, ids),
            student_log_probs=of_student.log_probs[row, : len(ids)].tolist(),
            teacher_log_probs=of_teacher.log_probs[row, : len(ids)].tolist(),
            gates=gate_SR[row, : len(ids)].tolist(),
            student_prompt=tokenizer.decode(student[row]),
            teacher_prompt=tokenizer.decode(teacher[row]),
            skill=taught[row].skill,
            skill_digest=taught[row].digest,
            skill_text=skill_in(taught[row].prompt.messages) or "",
            expert_action=expert[row],
            student_greedy_action=student_greedy[row],
            teacher_greedy_action=teacher_greedy[row],
        )
        for row, ids in enumerate(responses)
    ]


def _student_prompts(
    tokenizer: Any, package: EnvironmentPackage, episode: Episode, limit: int
) -> list[Prompt]:
    if episode.skill is None:
        return [turn.prompt for turn in episode.turns]
    return [
        fit_prompt(tokenizer, package, turn.moment, None, limit, turn.prompt.cut)
        for turn in episode.turns
    ]
