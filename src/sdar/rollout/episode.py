"""What a rollout produces: episodes made of turns. A turn is one training sample.

Sampled token ids are kept as they were sampled; nothing here is ever re-tokenised.
"""

from dataclasses import dataclass, field

from sdar.environments.base import PastTurn, Task


@dataclass
class Turn:
    """One model call: the prompt shown and the response sampled for it.

    `messages` is the student's chat (list of {"role", "content"}) and `prompt_ids` its tokens;
    `history` and `admissible_actions` are what it was made from, so that the teacher's prompt can
    be made from the same. `log_probs` are those of the sampled tokens (nats, temperature 1) as the
    engine saw them. `penalty` is subtracted from the episode's return for this turn (METHOD 3).
    `dropped_history` counts the history entries left out to meet the prompt limit.
    """

    index: int
    messages: list[dict[str, str]]
    prompt_ids: list[int]
    response_ids: list[int]
    log_probs: list[float]
    response: str
    action: str
    valid: bool
    observation: str
    next_observation: str
    admissible: bool
    dropped_history: int = 0
    penalty: float = 0.0
    history: tuple[PastTurn, ...] = ()
    admissible_actions: tuple[str, ...] = ()


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
