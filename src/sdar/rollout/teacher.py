"""The teacher's prompts: the same turn with the skill in the system message.

The teacher is the student's own weights. It reads its prompt and then the *sampled token ids*:
nothing is decoded and tokenised again. The prompt has its own limit; what goes when it is reached
is history, never the skill, and it is counted (METHOD 10, defects 1-3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdar.rollout.episode import Episode
from sdar.rollout.turns import fit_prompt

if TYPE_CHECKING:
    from sdar.skills.library import SkillLibrary


@dataclass(frozen=True)
class TeacherPrompt:
    """What the teacher reads before a turn's response, and which skill is in it."""

    messages: list[dict[str, str]]
    prompt_ids: list[int]
    skill: str
    digest: str
    dropped_history: int


def teacher_prompts(
    tokenizer: Any,
    episodes: Sequence[Episode],
    skills: "SkillLibrary",
    *,
    environment: str,
    limit: int,
) -> list[TeacherPrompt]:
    """One prompt a turn, in the order of episodes and turns; `limit` in tokens.

    The skill is what the library tells for the task (`skills.retrieval`). Raises `SdarError` when
    its type is unknown, or when a prompt is over the limit without any history.
    """
    prompts = []
    for episode in episodes:
        skill = skills.for_task(episode.task)
        for turn in episode.turns:
            messages, prompt_ids, dropped = fit_prompt(
                tokenizer,
                environment,
                episode.task,
                turn.history,
                turn.observation,
                turn.admissible_actions,
                turn.index,
                skill.text,
                limit=limit,
                limit_key="policy.max_teacher_prompt_tokens",
            )
            prompts.append(TeacherPrompt(messages, prompt_ids, skill.name, skill.digest, dropped))
    return prompts
