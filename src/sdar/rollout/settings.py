"""The settings of a rollout, and its progress."""

from dataclasses import dataclass
from typing import Literal

from sdar.config import ExperimentConfig
from sdar.environments.base import EnvironmentPackage
from sdar.environments.chat import PromptLayout
from sdar.environments.packages import environment_package


@dataclass(frozen=True)
class RolloutSettings:
    """Environment, limits and rewards of a rollout; `from_config` reads the configuration.

    `temperature` 0 is greedy; `batch` is the most responses that the engine generates at once; the
    penalty is subtracted for each turn whose response does not parse. `schedule` and
    `answer_after`: see `config.rollout`; `layout`: `environments.chat`.
    """

    package: EnvironmentPackage
    max_turns: int
    history: int
    max_prompt_tokens: int
    max_response_tokens: int
    temperature: float
    batch: int
    success_reward: float
    invalid_action_penalty: float
    schedule: Literal["turns", "continuous"] = "turns"
    answer_after: int = 1
    layout: PromptLayout = "paper"

    @classmethod
    def from_config(
        cls, config: ExperimentConfig, *, temperature: float | None = None, skill: bool = False
    ) -> "RolloutSettings":
        """Training's settings, or another temperature. With `skill` the prompt holds the skill as
        well and has the teacher's limit."""
        policy, environment = config.policy, config.environment
        limit = policy.max_teacher_prompt_tokens if skill else policy.max_prompt_tokens
        return cls(
            package=environment_package(environment.name),
            max_turns=environment.max_turns,
            history=environment.history,
            max_prompt_tokens=limit,
            max_response_tokens=policy.max_response_tokens,
            temperature=config.rollout.temperature if temperature is None else temperature,
            batch=config.rollout.batch,
            success_reward=environment.success_reward,
            invalid_action_penalty=environment.invalid_action_penalty,
            schedule=config.rollout.chosen_schedule,
            answer_after=config.rollout.answer_after,
            layout=environment.prompt_layout,
        )


@dataclass(frozen=True)
class RolloutProgress:
    """Counts of episodes; `turn` is the mean number of turns that the live ones (all, when none is
    live) have played."""

    turn: float
    live: int
    finished: int
    won: int


def longest_sequence(config: ExperimentConfig) -> int:
    """Most tokens of a prompt, student's or teacher's, with its response."""
    policy = config.policy
    prompt = max(policy.max_prompt_tokens, policy.max_teacher_prompt_tokens)
    return prompt + policy.max_response_tokens
