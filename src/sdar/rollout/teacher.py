"""The teacher's prompts: the student's of the same turn, with the skill put in.

The teacher has the student's own weights. It reads its prompt and then the *sampled token ids*:
nothing is decoded and tokenised again. Where the skill goes, the chat template decides
(`policy.chat`); all else is the student's, token for token. Only beyond its own limit does the
teacher's prompt lose history, or text, that the student's has: never the skill, and it is counted.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdar.environments.base import EnvironmentPackage, Task
from sdar.rollout.episode import TeacherPrompt, Turn
from sdar.rollout.turns import fit_prompt

if TYPE_CHECKING:
    from sdar.skills.library import SkillLibrary


@dataclass(frozen=True)
class Teaching:
    """Makes teacher's prompts of at most `limit` tokens. The library chooses the skill of a task
    (`skills.retrieval`)."""

    tokenizer: Any
    package: EnvironmentPackage
    skills: "SkillLibrary"
    limit: int

    def prompt(self, task: Task, turn: Turn, cut: int | None = None) -> TeacherPrompt:
        """The teacher's prompt of a turn. `cut`: the characters that the student's prompt lacks;
        None: those that the turn's own does.

        Raises `SdarError` when the task's type is unknown, or when the skill leaves no room.
        """
        skill = self.skills.for_task(task)
        lacking = turn.prompt.cut if cut is None else cut
        prompt = fit_prompt(
            self.tokenizer, self.package, turn.moment, skill.text, self.limit, lacking
        )
        return TeacherPrompt(prompt, skill.name, skill.digest)
