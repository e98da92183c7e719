"""Panels: which tasks are played, in which order, with which random streams. Pure.

A panel is a split of the data set (valid_seen, valid_unseen). Its tasks are sorted by id and cut
into chunks; a chunk is what is played together, kept when an evaluation is interrupted, and not
played again. Every task belongs to exactly one chunk for each evaluation seed. Chunks decide which
random stream a task has, so their size is fixed: `rollout.batch` only cuts them again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

from sdar.environments.base import Task
from sdar.errors import SdarError
from sdar.files.digest import text_digest

CHUNK_SIZE = 64
"""Most tasks of a chunk."""


@dataclass(frozen=True)
class Chunk:
    """Tasks of one panel played together under one evaluation seed, with one kind of prompt."""

    panel: str
    evaluation_seed: int
    index: int
    tasks: tuple[Task, ...]
    with_skill: bool = False

    @property
    def name(self) -> str:
        """File name of the chunk's results, without suffix."""
        prompt = "skill" if self.with_skill else "plain"
        return f"{self.panel}.{prompt}.seed-{self.evaluation_seed}.chunk-{self.index:04d}"

    @property
    def step(self) -> int:
        """The `step` of the sampling streams (seed, step, slot, turn): negative, so that it never
        meets a training step; a function of panel and index, not of the other panels."""
        digest = bytes.fromhex(text_digest(f"{self.panel}/{self.index}"))
        return -1 - (int.from_bytes(digest[:4], "big") >> 1)


def plan_chunks(
    panels: Mapping[str, Sequence[Task]],
    seeds: Sequence[int],
    size: int = CHUNK_SIZE,
    prompts: Sequence[bool] = (False,),
) -> list[Chunk]:
    """Every task of every panel once for each evaluation seed, in chunks of at most `size`.

    `prompts` lists the kinds of prompt (with the skill: True), each of which plays everything.

    Raises SdarError for an empty panel or a task listed twice.
    """
    chunks = []
    for panel, tasks in panels.items():
        if not tasks:
            raise SdarError(
                f"panel {panel}: no tasks; make them with `sdar tasks` or remove the "
                "panel from evaluation.panels"
            )
        ordered = sorted(tasks, key=lambda task: task.id)
        for first, second in pairwise(ordered):
            if first.id == second.id:
                raise SdarError(
                    f"panel {panel}: task {first.id} is listed twice; a panel holds "
                    "each task once, make the tasks again with `sdar tasks`"
                )
        for with_skill, seed in product(prompts, seeds):
            for index, start in enumerate(range(0, len(ordered), size)):
                part = tuple(ordered[start : start + size])
                chunks.append(Chunk(panel, seed, index, part, with_skill))
    return chunks


def recorded_tasks(panels: Mapping[str, Sequence[Task]], count: int) -> set[tuple[str, str]]:
    """(panel, task id) of the `count` tasks that are recorded token by token.

    Chosen before they are played and from the tasks alone: every method is recorded on the same
    tasks, and success has no part in the choice. Task types and panels take turns; within them
    the order is that of a hash of the id.
    """
    queues: dict[tuple[str, str], list[str]] = {}
    for panel, tasks in panels.items():
        for task in tasks:
            queues.setdefault((task.task_type, panel), []).append(task.id)
    for queue in queues.values():
        queue.sort(key=text_digest, reverse=True)
    # Rank k of each (type, panel) before rank k + 1 of any; panels alternate from type to type.
    types = sorted({task_type for task_type, _ in queues})
    names = list(panels)
    turns = [
        (task_type, names[(position + shift) % len(names)])
        for shift in range(len(names))
        for position, task_type in enumerate(types)
    ]
    chosen: set[tuple[str, str]] = set()
    while len(chosen) < count and any(queues.values()):
        for task_type, panel in turns:
            queue = queues.get((task_type, panel), [])
            if queue and len(chosen) < count:
                chosen.add((panel, queue.pop()))
    return chosen
