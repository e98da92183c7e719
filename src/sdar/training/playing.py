"""The episodes of a training step: which tasks are played, and by which rank."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdar.clock import PhaseClock
from sdar.config import ExperimentConfig
from sdar.environments.base import Task
from sdar.methods.declarations import Method
from sdar.policy.weights import named_full_weights
from sdar.ranks.ranks import Ranks
from sdar.rollout.collector import collect
from sdar.rollout.engines.base import RemoteWeights, Sleeper
from sdar.rollout.episode import Episode
from sdar.rollout.settings import RolloutProgress, RolloutSettings
from sdar.rollout.teacher import Teaching
from sdar.training.parts import Parts
from sdar.training.shares import slots_of_rank


@dataclass(frozen=True)
class Playing:
    """Plays a step's episodes, this rank its share of the slots."""

    parts: Parts
    config: ExperimentConfig
    method: Method
    seed: int
    accelerator: Any
    ranks: Ranks
    engine: Any

    def tasks(self, step: int) -> tuple[list[Task], list[int]]:
        """The step's tasks, each as often as its group is large, and the group numbers."""
        training = self.config.training
        return tasks_of_step(
            self.parts.tasks, training.tasks_per_step, training.group_size, self.seed, step
        )

    def prefetch(self, step: int) -> None:
        """Let the environment load the tasks of a step while the model computes."""
        tasks, _ = self.tasks(step)
        slots = slots_of_rank(len(tasks), self.ranks.count, self.ranks.rank)
        self.parts.pool.prefetch(list(dict.fromkeys(tasks[slots.start : slots.stop])))

    def rollout(
        self, step: int, clock: PhaseClock, bar: Any = None, *, taught: bool
    ) -> list[Episode]:
        """Play the step's episodes with the current weights; all ranks get all episodes. `taught`:
        with the teacher's prompts."""
        if isinstance(self.engine, RemoteWeights):
            with clock("weights"):
                self.engine.take_weights(named_full_weights(self.parts.model), step)
        episodes = self._play(step, clock, bar, taught)
        if not (taught and engine_scores(self.config)):
            rest(self.engine)
        if self.ranks.count == 1:
            return episodes
        with clock("waiting"):
            return [episode for share in self.ranks.gather(episodes) for episode in share]

    def _play(self, step: int, clock: PhaseClock, bar: Any, taught: bool) -> list[Episode]:
        def show(progress: RolloutProgress) -> None:
            if bar is not None:
                playing = f"{progress.live} playing, {progress.won} won"
                bar.set_postfix_str(
                    f"turn {progress.turn:.0f}, {playing}", refresh=sys.stderr.isatty()
                )

        with_skill = self.method.rollout_with_skill
        tasks, groups = self.tasks(step)
        slots = slots_of_rank(len(tasks), self.ranks.count, self.ranks.rank)
        if not slots:
            return []
        settings = RolloutSettings.from_config(self.config, skill=with_skill)
        teaching = None
        if taught:
            parts = self.parts
            teaching = Teaching(
                parts.tokenizer,
                settings.package,
                parts.skills,
                self.config.policy.max_teacher_prompt_tokens,
                share=self.config.training.distillation.share,
                whole_episodes=self.method.compares_turns,
            )
        with self.accelerator.autocast():
            return collect(
                self.engine,
                self.parts.tokenizer,
                self.parts.pool,
                tasks[slots.start : slots.stop],
                groups[slots.start : slots.stop],
                settings=settings,
                skills=self.parts.skills if with_skill else None,
                seed=self.seed,
                step=step,
                on_progress=show,
                clock=clock,
                first_slot=slots.start,
                teaching=teaching,
            )


def tasks_of_step(
    tasks: Sequence[Task], count: int, group_size: int, seed: int, step: int
) -> tuple[list[Task], list[int]]:
    """Tasks of step `step`, each repeated `group_size` times, and their group numbers.

    Epochs are permutations of all tasks, one after the other, each a function of (seed, epoch);
    step k takes the k-th run of `count` of that endless sequence. So every task is played equally
    often, and a step needs nothing from the steps before it.
    """
    chosen: list[Task] = []
    for place in range(step * count, (step + 1) * count):
        epoch, index = divmod(place, len(tasks))
        chosen.append(tasks[_permutation(len(tasks), seed, epoch)[index]])
    repeated = [task for task in chosen for _ in range(group_size)]
    return repeated, [group for group in range(count) for _ in range(group_size)]


def _permutation(count: int, seed: int, epoch: int) -> list[int]:
    return np.random.default_rng([seed, epoch, 0x7A5C]).permutation(count).tolist()


def engine_scores(config: ExperimentConfig) -> bool:
    """Whether the engine that plays gives the teacher's log-probs, too, where it is asked."""
    return config.training.distillation.scored_by == "engine"


def rest(engine: Any) -> None:
    """The engine's work of this step is done: its memory is the trainer's."""
    if isinstance(engine, Sleeper):
        engine.sleep()
