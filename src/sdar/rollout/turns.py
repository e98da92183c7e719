"""One turn of an episode: from its moment to the prompt, from the response to the action."""

from typing import Any

from sdar.environments.base import EnvironmentPackage, Moment, Observation, PastTurn
from sdar.errors import SdarError
from sdar.policy.loading import render_prompt
from sdar.rollout.engines.base import Generation
from sdar.rollout.episode import Episode, Prompt, Turn
from sdar.rollout.settings import RolloutSettings


def fit_prompt(
    tokenizer: Any, package: EnvironmentPackage, moment: Moment, skill: str | None, limit: int
) -> Prompt:
    """The prompt of a turn, within `limit` tokens; `skill` is its text, None for a student.

    Only history is dropped, oldest first. Raises `SdarError` naming the key of the limit (the
    teacher's where there is a skill) when the prompt is too long without any history.
    """
    for dropped in range(len(moment.history) + 1):
        shown = moment.without_oldest(dropped)
        messages = package.build_messages(shown, skill)
        token_ids = render_prompt(tokenizer, messages)
        if len(token_ids) <= limit:
            return Prompt(shown, messages, token_ids, dropped)
    key = "policy.max_prompt_tokens" if skill is None else "policy.max_teacher_prompt_tokens"
    raise SdarError(
        f"{key}: task {moment.task.id}, turn {moment.index + 1} needs {len(token_ids)} tokens "
        f"without any history, the limit is {limit}: raise {key}, or shorten the skill or the tasks"
    )


def open_turn(
    episode: Episode,
    observation: Observation,
    skill: str | None,
    tokenizer: Any,
    settings: RolloutSettings,
) -> Turn:
    """The episode's next turn up to its response; `skill` as in `fit_prompt`."""
    past = [PastTurn(turn.moment.observation, turn.action) for turn in episode.turns]
    moment = Moment.after(past, episode.task, observation, window=settings.history)
    return Turn(fit_prompt(tokenizer, settings.package, moment, skill, settings.max_prompt_tokens))


def close_turn(
    turn: Turn, generation: Generation, tokenizer: Any, settings: RolloutSettings
) -> None:
    """Take in the response: its tokens, its text, its action."""
    turn.response_ids = generation.token_ids
    turn.log_probs = generation.log_probs
    turn.response = tokenizer.decode(generation.token_ids, skip_special_tokens=True)
    parsed = settings.package.parse(turn.response)
    turn.action, turn.valid = parsed.action, parsed.valid
    turn.penalty = 0.0 if parsed.valid else settings.invalid_action_penalty
    turn.admissible = settings.package.is_admissible(parsed.action, turn.moment.admissible_actions)
