"""What a rollout produces: episodes made of turns. A turn is one training sample.

Sampled token ids are kept as they were sampled; nothing here is ever re-tokenised.
"""

from dataclasses import dataclass, field

from sdar.environments.base import Task


@dataclass
class Turn:
    """One model call: the prompt shown and the response sampled for it.

    `messages` is the student's chat (list of {"role", "content"}); `log_probs` are those of the
    sampled tokens under the sampling policy at temperature 1, as the engine saw them.
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


@dataclass
class Episode:
    """One play of a task. `slot` numbers the episodes of a step; `group` those of one task."""

    task: Task
    slot: int
    group: int
    turns: list[Turn] = field(default_factory=list)
    won: bool = False
    episode_return: float = 0.0
    skill: str | None = None
    skill_digest: str | None = None
