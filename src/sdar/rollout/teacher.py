"""The teacher's prompts: the student's of the same turn, with the skill put in.

The teacher has the student's own weights. It reads its prompt and then the *sampled token ids*:
nothing is decoded and tokenised again. Where the skill goes, the chat template decides
(`policy.chat`); all else is the student's, token for token. Only beyond its own limit does the
teacher's prompt lose history, or text, that the student's has: never the skill, and it is counted.

A turn without a teacher's prompt is not taught. It may be that only a share of the turns is drawn.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sdar.environments.base import EnvironmentPackage, Task
from sdar.rollout.engines.base import Key
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
    share: float = 1.0
    """Of the turns, those that `asks` draws."""
    whole_episodes: bool = False
    """All turns of an episode are drawn together."""

    def asks(self, key: Key) -> bool:
        """Whether the teacher scores the turn of this key."""
        seed, step, slot, turn = key
        return drawn((seed, step, slot, 0 if self.whole_episodes else turn), self.share)

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


def drawn(key: Key, share: float) -> bool:
    """True with probability `share`: a function of the key alone, and of numbers that nothing else
    draws. Who is drawn at a share is drawn at every larger one."""
    return share >= 1 or float(np.random.default_rng([*key, 0x7EAC]).random()) < share
