"""What a rollout produces: episodes made of turns. A turn is one training sample.

Sampled token ids are kept as they were sampled; nothing here is ever re-tokenised.
"""

from dataclasses import dataclass, field

from sdar.environments.base import Moment, Task
from sdar.environments.chat import Message


@dataclass(frozen=True)
class Prompt:
    """The chat of one turn and its tokens, made from `moment`, whose history is as short as the
    prompt limit needed: `dropped_history` counts the entries left out, `cut` the characters that
    the user's message lacks in its middle."""

    moment: Moment
    messages: list[Message]
    token_ids: list[int]
    dropped_history: int = 0
    cut: int = 0


@dataclass(frozen=True)
class TeacherPrompt:
    """What the teacher reads before a turn's response, and name and digest of the skill in it."""

    prompt: Prompt
    skill: str
    digest: str


@dataclass
class Turn:
    """One model call: the student's prompt and the response sampled for it.

    `log_probs` are those of the sampled tokens (nats, temperature 1) as the engine saw them.
    `penalty` is subtracted from the episode's return for this turn. `teacher` is the teacher's
    prompt where the rollout made it.
    """

    prompt: Prompt
    response_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    response: str = ""
    action: str = ""
    valid: bool = False
    admissible: bool = False
    penalty: float = 0.0
    next_observation: str = ""
    teacher: TeacherPrompt | None = None

    @property
    def moment(self) -> Moment:
        """What the student saw; the teacher's prompt is made from the same."""
        return self.prompt.moment


@dataclass
class Episode:
    """One play of a task. `slot` numbers the episodes of a step; `group` those of one task.

    `skill` and `skill_digest` name the skill in the *student's* prompt; None when it had none.
    """

    task: Task
    slot: int
    group: int
    turns: list[Turn] = field(default_factory=list)
    won: bool = False
    episode_return: float = 0.0
    score: float | None = None
    """The environment's own measure, 0-1, where it has one beyond success."""
    skill: str | None = None
    skill_digest: str | None = None
