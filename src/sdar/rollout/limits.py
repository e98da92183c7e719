"""Whether there is room for prompts at all: asked before anything is computed."""

from collections.abc import Sequence
from typing import Any

from sdar.config import ExperimentConfig
from sdar.environments.base import Moment, Task
from sdar.environments.packages import environment_package
from sdar.errors import SdarError
from sdar.policy.chat import render_prompt


def check_limits(
    tokenizer: Any,
    config: ExperimentConfig,
    tasks: Sequence[Task],
    skills: Any,
    *,
    without_skill: bool,
    with_skill: bool,
) -> None:
    """Raise `SdarError` when no task's prompt can be whole: even the shortest instruction, with the
    fixed words (and the skill), is beyond the limit before the environment has said a word.

    One long prompt among others is no error: `turns.fit_prompt` cuts it.
    """
    policy = config.policy
    if without_skill:
        _check(tokenizer, config, tasks, None, "max_prompt_tokens", policy.max_prompt_tokens)
    if with_skill:
        taught: dict[str, list[Task]] = {}
        for task in tasks:
            taught.setdefault(skills.for_task(task).text, []).append(task)
        limit = policy.max_teacher_prompt_tokens
        for skill, its_tasks in taught.items():
            _check(tokenizer, config, its_tasks, skill, "max_teacher_prompt_tokens", limit)


def _check(
    tokenizer: Any,
    config: ExperimentConfig,
    tasks: Sequence[Task],
    skill: str | None,
    key: str,
    limit: int,
) -> None:
    package = environment_package(config.environment.name)
    shortest = min(tasks, key=lambda task: len(task.instruction))
    moment = Moment(shortest, (), "", (), 0, config.environment.prompt_layout)
    messages = package.build_messages(moment, skill)
    needed = len(render_prompt(tokenizer, messages))
    if needed > limit:
        raise SdarError(
            f"policy.{key}: {limit} tokens are too few for any prompt: that of the task with the "
            f"shortest instruction ({shortest.id}) needs {needed} before the environment has said "
            f"a word: raise policy.{key}, or shorten the {'skill' if skill else 'tasks'}"
        )
