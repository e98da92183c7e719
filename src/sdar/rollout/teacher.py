"""The teacher's prompts: the student's of the same turn, with the skill put in.

The teacher has the student's own weights. It reads its prompt and then the *sampled token ids*:
nothing is decoded and tokenised again. Where the skill goes, the chat template decides
(`policy.chat`); all else is the student's, token for token. Only beyond its own limit does the
teacher's prompt lose history, or text, that the student's has: never the skill, and it is counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdar.environments.base import EnvironmentPackage
from sdar.rollout.episode import Episode, Prompt
from sdar.rollout.turns import fit_prompt

if TYPE_CHECKING:
    from sdar.skills.library import SkillLibrary


@dataclass(frozen=True)
class TeacherPrompt:
    """What the teacher reads before a turn's response, and name and digest of the skill in it."""

    prompt: Prompt
    skill: str
    digest: str


def teacher_prompts(
    tokenizer: Any,
    episodes: Sequence[Episode],
    skills: "SkillLibrary",
    *,
    package: EnvironmentPackage,
    limit: int,
    cuts: Sequence[int] | None = None,
) -> list[TeacherPrompt]:
    """One prompt per turn, in the order of episodes and turns; `limit` in tokens. `cuts`: the
    characters that the students' prompts lack; None: those that the turns' own do.

    The library chooses the skill (`skills.retrieval`). Raises `SdarError` when the task's type is
    unknown, or when a skill leaves no room for a prompt.
    """
    prompts: list[TeacherPrompt] = []
    for episode in episodes:
        skill = skills.for_task(episode.task)
        for turn in episode.turns:
            cut = turn.prompt.cut if cuts is None else cuts[len(prompts)]
            prompt = fit_prompt(tokenizer, package, turn.moment, skill.text, limit, cut)
            prompts.append(TeacherPrompt(prompt, skill.name, skill.digest))
    return prompts
