"""What others would have done at each turn of a played episode: the expert, and the greedy policy
with and without the skill. Nothing is played: the episode is shown to them as it went."""

from collections.abc import Sequence
from typing import Any

from sdar.environments.base import EnvironmentPackage, Knowledge, Observation
from sdar.errors import SdarError
from sdar.rollout.engines.base import RolloutEngine
from sdar.rollout.episode import Episode
from sdar.rollout.turns import read_response


def expert_actions(
    package: EnvironmentPackage, episode: Episode, knowledge: Knowledge | None
) -> list[str | None]:
    """The expert's action at every turn, given what the episode had shown until then.

    `knowledge` tells it the world's habits, as a skill tells the teacher. None where no expert can
    play the task, and from the turn on where it no longer knows what to do.
    """
    turns = episode.turns
    seen = [
        Observation(turn.moment.observation, turn.moment.admissible_actions, won=False, done=False)
        for turn in turns
    ]
    actions: list[str | None] = []
    # An expert is a witness here: its failure must not end an evaluation.
    try:
        expert = package.expert(episode.task, seen[0], knowledge)
        for turn, following in zip(turns, [*seen[1:], None], strict=True):
            actions.append(expert.act()[1])
            if following is not None:
                expert.observe(turn.action, following)
    except (SdarError, LookupError, StopIteration, ValueError):
        pass
    return actions + [None] * (len(turns) - len(actions))


def greedy_actions(
    engine: RolloutEngine,
    tokenizer: Any,
    package: EnvironmentPackage,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    batch: int,
) -> list[str]:
    """The action of the most likely response to each prompt; at most `batch` at once."""
    actions = []
    for start in range(0, len(prompts), batch):
        part = list(prompts[start : start + batch])
        generations = engine.generate(
            part,
            [(0, 0, 0, start + row) for row in range(len(part))],  # greedy: the draws are not used
            max_new_tokens=max_new_tokens,
            temperature=0.0,
        )
        for generation in generations:
            actions.append(read_response(tokenizer, package, generation.token_ids)[1].action)
    return actions
