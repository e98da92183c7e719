"""Playing episodes: prompts out of observations, responses out of the engine, actions back.

All live episodes of a turn are sampled together; a finished one costs nothing from then on. An
episode depends on its task, its skill, the policy and (seed, step, slot) alone: not on which
episodes run beside it, nor on the order in which they end.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdar.clock import PhaseClock
from sdar.config import ExperimentConfig
from sdar.environments.base import EnvironmentPool, Observation, PastTurn, Task
from sdar.environments.packages import environment_package
from sdar.environments.parsing import parse_action
from sdar.errors import SdarError
from sdar.policy.loading import render_prompt
from sdar.rollout.engines.base import Generation, RolloutEngine
from sdar.rollout.episode import Episode, Turn

if TYPE_CHECKING:
    from sdar.skills.library import Skill, SkillLibrary


@dataclass(frozen=True)
class RolloutSettings:
    """Limits and rewards of a rollout; `from_config` takes them from the configuration.

    `temperature` 0 is greedy; `batch` is the most prompts in one call of the engine; the penalty
    is subtracted for each turn whose response does not parse (METHOD 3).
    """

    environment: str
    max_turns: int
    history: int
    max_prompt_tokens: int
    max_response_tokens: int
    temperature: float
    batch: int
    success_reward: float
    invalid_action_penalty: float

    @classmethod
    def from_config(
        cls, config: ExperimentConfig, *, temperature: float | None = None, skill: bool = False
    ) -> "RolloutSettings":
        """Training's settings, or another temperature. With `skill` the prompt holds the skill as
        well and has the teacher's limit."""
        policy, environment = config.policy, config.environment
        limit = policy.max_teacher_prompt_tokens if skill else policy.max_prompt_tokens
        return cls(
            environment=environment.name,
            max_turns=environment.max_turns,
            history=environment.history,
            max_prompt_tokens=limit,
            max_response_tokens=policy.max_response_tokens,
            temperature=config.rollout.temperature if temperature is None else temperature,
            batch=config.rollout.batch,
            success_reward=environment.success_reward,
            invalid_action_penalty=environment.invalid_action_penalty,
        )


@dataclass(frozen=True)
class RolloutProgress:
    """Where a rollout stands after a turn: counts of episodes."""

    turn: int
    live: int
    finished: int
    won: int


def collect(
    engine: RolloutEngine,
    tokenizer: Any,
    pool: EnvironmentPool,
    tasks: Sequence[Task],
    groups: Sequence[int],
    *,
    settings: RolloutSettings,
    skills: "SkillLibrary | None",
    seed: int,
    step: int,
    on_progress: Callable[[RolloutProgress], None] | None = None,
    clock: PhaseClock | None = None,
    first_slot: int = 0,
) -> list[Episode]:
    """Play one episode of each task, in slots from `first_slot` on, to its end or the turn limit.

    `groups[i]` is the group of episode i. `skills` None: the student plays without a skill.
    Returns the episodes in the order of the tasks. `clock` gets the phases `environment` and
    `generation`. Raises `SdarError` when a prompt without any history is still over the limit.
    """
    if len(tasks) != len(groups):
        raise ValueError(f"{len(tasks)} tasks but {len(groups)} groups")
    timed: Any = clock if clock is not None else lambda phase: nullcontext()
    episodes = {
        slot: Episode(task=task, slot=slot, group=group)
        for slot, (task, group) in enumerate(zip(tasks, groups, strict=True), first_slot)
    }
    known: dict[int, Skill | None] = {}
    for episode in episodes.values():
        skill = None if skills is None else skills.for_task(episode.task)
        known[episode.slot] = skill
        if skill is not None:
            episode.skill, episode.skill_digest = skill.name, skill.digest

    with timed("environment"):
        current = pool.reset({slot: episode.task for slot, episode in episodes.items()})
    live = list(episodes)
    for index in range(settings.max_turns):
        with timed("generation"):
            for slot in live:
                skill = known[slot]
                turn = _open_turn(episodes[slot], current[slot], index, skill, tokenizer, settings)
                episodes[slot].turns.append(turn)
            for start in range(0, len(live), settings.batch):
                slots = live[start : start + settings.batch]
                generations = engine.generate(
                    [episodes[slot].turns[-1].prompt_ids for slot in slots],
                    [(seed, step, slot, index) for slot in slots],
                    max_new_tokens=settings.max_response_tokens,
                    temperature=settings.temperature,
                )
                for slot, generation in zip(slots, generations, strict=True):
                    _close_turn(episodes[slot].turns[-1], generation, tokenizer, settings)
        with timed("environment"):
            current = pool.step({slot: episodes[slot].turns[-1].action for slot in live})
        for slot in live:
            episode, observation = episodes[slot], current[slot]
            episode.turns[-1].next_observation = observation.text
            episode.won = observation.won
            episode.score = observation.score
            episode.episode_return = settings.success_reward if observation.won else 0.0
        live = [slot for slot in live if not (current[slot].done or current[slot].won)]
        if on_progress is not None:
            won = sum(episode.won for episode in episodes.values())
            on_progress(RolloutProgress(index + 1, len(live), len(episodes) - len(live), won))
        if not live:
            break
    return list(episodes.values())


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
        f"history, the limit is {limit}: raise {limit_key}, or shorten the skill or the games"
    )


def _open_turn(
    episode: Episode,
    observation: Observation,
    index: int,
    skill: "Skill | None",
    tokenizer: Any,
    settings: RolloutSettings,
) -> Turn:
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


def _close_turn(
    turn: Turn, generation: Generation, tokenizer: Any, settings: RolloutSettings
) -> None:
    turn.response_ids = generation.token_ids
    turn.log_probs = generation.log_probs
    turn.response = tokenizer.decode(generation.token_ids, skip_special_tokens=True)
    package = environment_package(settings.environment)
    parsed = parse_action(turn.response, package.parser)
    turn.action, turn.valid = parsed.action, parsed.valid
    turn.penalty = 0.0 if parsed.valid else settings.invalid_action_penalty
    turn.admissible = package.is_admissible(parsed.action, turn.admissible_actions)
