"""One turn of an episode: the prompt out of the observation, the action out of the response."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sdar.environments.base import Observation, PastTurn, Task
from sdar.environments.packages import environment_package
from sdar.environments.parsing import parse_action
from sdar.errors import SdarError
from sdar.policy.loading import render_prompt
from sdar.rollout.engines.base import Generation
from sdar.rollout.episode import Episode, Turn
from sdar.rollout.settings import RolloutSettings

if TYPE_CHECKING:
    from sdar.skills.library import Skill


def chat_of_turn(
    environment: str,
    task: Task,
    history: Sequence[PastTurn],
    observation: str,
    admissible_actions: Sequence[str],
    index: int,
    skill_text: str | None,
) -> list[dict[str, str]]:
    """The environment's chat for one turn; the skill, if any, is the system message."""
    return environment_package(environment).build_messages(
        task.instruction,
        list(history),
        observation,
        list(admissible_actions),
        index,
        skill_text or None,
    )


def fit_prompt(
    tokenizer: Any,
    environment: str,
    task: Task,
    history: Sequence[PastTurn],
    observation: str,
    admissible_actions: Sequence[str],
    index: int,
    skill_text: str | None,
    *,
    limit: int,
    limit_key: str,
) -> tuple[list[dict[str, str]], list[int], int]:
    """Chat, its tokens, and how many history entries had to go to stay within `limit` tokens.

    History goes oldest first; nothing else ever does (METHOD 10.1). Raises `SdarError` naming
    `limit_key` when the prompt is too long without any.
    """
    for dropped in range(len(history) + 1):
        messages = chat_of_turn(
            environment, task, history[dropped:], observation, admissible_actions, index, skill_text
        )
        prompt_ids = render_prompt(tokenizer, messages)
        if len(prompt_ids) <= limit:
            return messages, prompt_ids, dropped
    raise SdarError(
        f"{limit_key}: task {task.id}, turn {index + 1} needs {len(prompt_ids)} tokens without any "
        f"history, the limit is {limit}: raise {limit_key}, or shorten the skill or the tasks"
    )


def open_turn(
    episode: Episode,
    observation: Observation,
    index: int,
    skill: "Skill | None",
    tokenizer: Any,
    settings: RolloutSettings,
) -> Turn:
    """The episode's next turn, number `index`, up to its response."""
    window = episode.turns[-settings.history :] if settings.history else []
    history = tuple(PastTurn(past.observation, past.action) for past in window)
    messages, prompt_ids, dropped = fit_prompt(
        tokenizer,
        settings.environment,
        episode.task,
        history,
        observation.text,
        observation.admissible_actions,
        index,
        None if skill is None else skill.text,
        limit=settings.max_prompt_tokens,
        limit_key="policy.max_prompt_tokens"
        if skill is None
        else "policy.max_teacher_prompt_tokens",
    )
    return Turn(
        index=index,
        messages=messages,
        prompt_ids=prompt_ids,
        response_ids=[],
        log_probs=[],
        response="",
        action="",
        valid=False,
        observation=observation.text,
        next_observation="",
        admissible=False,
        dropped_history=dropped,
        history=history[dropped:],
        admissible_actions=tuple(observation.admissible_actions),
    )


def close_turn(
    turn: Turn, generation: Generation, tokenizer: Any, settings: RolloutSettings
) -> None:
    """Take in the response: what it says and what it does."""
    turn.response_ids = generation.token_ids
    turn.log_probs = generation.log_probs
    turn.response = tokenizer.decode(generation.token_ids, skip_special_tokens=True)
    package = environment_package(settings.environment)
    parsed = parse_action(turn.response, package.parser)
    turn.action, turn.valid = parsed.action, parsed.valid
    turn.penalty = 0.0 if parsed.valid else settings.invalid_action_penalty
    turn.admissible = package.is_admissible(parsed.action, turn.admissible_actions)
