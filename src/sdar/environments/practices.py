"""Where the warm start's episodes come from: generated worlds, or the real training tasks.

Real tasks are played through the environment's own pool, as training plays them. Episode `i` plays
task `i` of an order drawn from the seed, and every task comes once before any comes again. What
real tasks are set in has no habits to tell: a hint is the skill as the trainer's teacher reads it.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from sdar.environments.base import (
    FIRST_OPENING,
    EnvironmentPackage,
    EnvironmentPool,
    Knowledge,
    MakeExpert,
    Observation,
    Practice,
    Practices,
    Task,
)
from sdar.environments.packages import environment_package
from sdar.environments.tasks import read_knowledge, read_tasks
from sdar.errors import SdarError
from sdar.layout import Layout

SPLIT = "train"
AHEAD = 16
"""Tasks whose loading may begin before their turn."""


class WorldPractices:
    """Episodes in generated worlds."""

    tasks = None

    def __init__(self, config: Any) -> None:
        self._config = config
        self._package = environment_package(config.environment.name)

    def episode(self, index: int, *, opening: bool = False, slot: int = 0) -> Practice:
        return self._package.practice(self._config, index, opening=opening)


class TaskPractices:
    """Episodes of real tasks, played in `pool`."""

    def __init__(
        self,
        config: Any,
        tasks: list[Task],
        knowledge: Knowledge | None,
        pool: EnvironmentPool,
        make_expert: MakeExpert,
    ) -> None:
        self._settings = config.warm_start.demonstrations
        self._package = environment_package(config.environment.name)
        self._tasks = tasks
        self._knowledge = knowledge
        self._pool = pool
        self._make_expert = make_expert
        self._order = lru_cache(maxsize=4)(self._shuffled)

    @property
    def tasks(self) -> int:
        return len(self._tasks)

    def task(self, number: int) -> Task:
        """The task in this place of the order, which begins anew, otherwise, at its end."""
        again, place = divmod(number, len(self._tasks))
        return self._tasks[self._order(again)[place]]

    def episode(self, index: int, *, opening: bool = False, slot: int = 0) -> Practice:
        # Openings go on in the order where the episodes would end.
        number = self._settings.episodes + index if opening else index
        key = FIRST_OPENING + index if opening else index
        # Drawn, not alternated: no task type may go with the hint.
        draw = random.Random(f"hinted/{self._settings.seed}/{key}").random()
        self._pool.prefetch([self.task(number + ahead) for ahead in range(AHEAD)])
        return TaskPractice(
            self.task(number),
            slot,
            self._pool,
            self._package,
            self._make_expert,
            knowledge=self._knowledge,
            hinted=opening or draw < self._settings.hinted,
            seed=key,
        )

    def _shuffled(self, again: int) -> list[int]:
        order = list(range(len(self._tasks)))
        random.Random(f"practice/{self._settings.seed}/{again}").shuffle(order)
        return order


class TaskPractice:
    """One real task in a slot of a pool, with the expert beside it. See `base.Practice`."""

    def __init__(
        self,
        task: Task,
        slot: int,
        pool: EnvironmentPool,
        package: EnvironmentPackage,
        make_expert: MakeExpert,
        *,
        knowledge: Knowledge | None,
        hinted: bool,
        seed: int,
    ) -> None:
        self.task = task
        self.hinted = hinted
        self.knowledge = knowledge
        self._slot = slot
        self._pool = pool
        self._package = package
        self.observation = pool.reset({slot: task})[slot]
        self._expert = make_expert(task, self.observation, seed)

    @property
    def stuck(self) -> bool:
        return self._expert.stuck

    def expert_turn(self) -> tuple[str, str]:
        return self._expert.act()

    def mistake(self, draw: random.Random) -> str:
        return self._package.mistake(self.task, self.observation, draw)

    def step(self, action: str) -> Observation:
        self.observation = self._pool.step({self._slot: action})[self._slot]
        self._expert.observe(action, self.observation)
        return self.observation


@contextmanager
def open_practices(config: Any, layout: Layout) -> Iterator[Practices]:
    """The warm start's episodes. Real training tasks are those that `sdar tasks` has listed.

    Raises `SdarError` where these are missing, or there are none to train on.
    """
    environment = config.environment
    if not environment.plays_data:
        yield WorldPractices(config)
        return
    package = environment_package(environment.name)
    tasks = training_tasks(environment.data, layout)
    make_expert = package.experts(environment, layout.tasks)
    pool = package.open_pool(environment, layout.tasks)
    try:
        knowledge = read_knowledge(environment, layout)
        yield TaskPractices(config, tasks, knowledge, pool, make_expert)
    finally:
        pool.close()


def training_tasks(data: Any, layout: Layout) -> list[Task]:
    """The real tasks that an expert may play: those of training, and no panel's."""
    try:
        return read_tasks(layout, SPLIT)
    except SdarError as error:
        raise SdarError(f"no demonstrations of environment.data ({data}): {error}") from None
