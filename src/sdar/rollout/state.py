"""The state of a rollout, for both schedules (`collector`, `continuous`)."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sdar.environments.base import EnvironmentPool, Observation
from sdar.policy.chat import ChatFormat
from sdar.rollout.engines.base import Generation, Key
from sdar.rollout.episode import Episode
from sdar.rollout.settings import RolloutProgress, RolloutSettings
from sdar.rollout.teacher import Teaching
from sdar.rollout.turns import close_turn, next_moment, open_turn

if TYPE_CHECKING:
    from sdar.skills.library import Skill


@dataclass
class Rollout:
    """Episodes, skills and observations by slot."""

    episodes: dict[int, Episode]
    skills: dict[int, "Skill | None"]
    pool: EnvironmentPool
    tokenizer: Any
    settings: RolloutSettings
    seed: int
    step: int
    timed: Callable[[str], AbstractContextManager[None]]
    on_progress: Callable[[RolloutProgress], None] | None
    teaching: Teaching | None = None
    """Makes the teacher's prompts; None: there are none."""
    current: dict[int, Observation] = field(default_factory=dict)
    """The last observation of each episode."""
    played: Counter[int] = field(default_factory=Counter)
    """Turns each episode has played."""

    def reset(self) -> list[int]:
        """Start all episodes; returns their slots."""
        tasks = {slot: episode.task for slot, episode in self.episodes.items()}
        with self.timed("environment"):
            self.current = self.pool.reset(tasks)
        return list(tasks)

    def prepare_turns(self, slots: Iterable[int]) -> None:
        """Encode the prompts of turns that are opened next, all together, which is quicker."""
        package, chats = self.settings.package, []
        for slot in slots:
            moment = next_moment(self.episodes[slot], self.current[slot], self.settings)
            chats.append(package.build_messages(moment, None))
        ChatFormat.of(self.tokenizer).prepare(chats)

    def open_turn(self, slot: int) -> tuple[list[int], Key]:
        """Begin the episode's next turn: its prompt, and the key of its response."""
        episode = self.episodes[slot]
        skill = self.skills[slot]
        text = None if skill is None else skill.text
        turn = open_turn(episode, self.current[slot], text, self.tokenizer, self.settings)
        episode.turns.append(turn)
        return turn.prompt.token_ids, (self.seed, self.step, slot, turn.moment.index)

    def close_turn(self, slot: int, generation: Generation) -> None:
        close_turn(self.episodes[slot].turns[-1], generation, self.tokenizer, self.settings)

    def send(self, slots: Sequence[int]) -> None:
        """Send the last turns' actions; make the teacher's prompts while the environments act."""
        with self.timed("environment"):
            self.pool.send({slot: self.episodes[slot].turns[-1].action for slot in slots})
            if self.teaching is not None:
                for slot in slots:
                    episode = self.episodes[slot]
                    turn = episode.turns[-1]
                    if self.teaching.asks((self.seed, self.step, slot, turn.moment.index)):
                        turn.teacher = self.teaching.prompt(episode.task, turn)

    def take(self, slot: int, observation: Observation) -> bool:
        """Take in the answer to the last action; returns whether the episode goes on."""
        episode = self.episodes[slot]
        self.current[slot] = observation
        self.played[slot] += 1
        episode.turns[-1].next_observation = observation.text
        episode.won = observation.won
        episode.score = observation.score
        episode.episode_return = self.settings.success_reward if observation.won else 0.0
        return not (observation.done or observation.won)

    def report(self, live: list[int]) -> None:
        """Report the progress; `live` are the slots of the live episodes."""
        if self.on_progress is not None:
            turns = [self.played[slot] for slot in live or self.episodes]
            finished = len(self.episodes) - len(live)
            won = sum(episode.won for episode in self.episodes.values())
            mean = sum(turns) / len(turns)
            self.on_progress(RolloutProgress(mean, len(live), finished, won))
