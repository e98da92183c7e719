"""Pools of ALFWorld episodes: in this process, or in worker processes that step many games each.

All episodes of one game go to one worker (so each game is loaded once), and a worker plays as many
games as it is given. Which worker plays what depends on the calls alone, and results do not depend
on it at all: observations are a function of (task, actions). So an episode whose worker was lost is
played again, up to where it was, by another.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from sdar.environments.alfworld.engine.host import Host, check_slots
from sdar.environments.alfworld.engine.process import STOP_SECONDS, WorkerLost, WorkerProcess
from sdar.environments.alfworld.engine.textworld_api import load_stack
from sdar.environments.alfworld.engine.worker import Failure
from sdar.environments.base import EnvironmentPool, Observation, Task
from sdar.environments.pools import SentActions
from sdar.errors import SdarError

if TYPE_CHECKING:
    from sdar.environments.alfworld.config import AlfworldConfig

log = logging.getLogger("sdar.environments")

WORKER_SECONDS = 300.0
"""How long a worker may say nothing, unless the configuration says it."""
LOSSES = 3
"""So many workers in a row may be lost at the same place before the run ends."""
REMEMBERED_TASKS = 10_000
"""Tasks whose worker is remembered; an older one may be loaded again elsewhere."""


class LocalPool:
    """All episodes in the caller's process."""

    def __init__(self) -> None:
        self._host = Host()
        self._slots: set[int] = set()
        self._sent = SentActions()

    def reset(self, tasks: dict[int, Task]) -> dict[int, Observation]:
        self._sent.drop(tasks)
        observations = self._host.reset(tasks)
        self._slots.update(tasks)
        return observations

    def step(self, actions: dict[int, str]) -> dict[int, Observation]:
        check_slots(list(actions), self._slots)
        return self._host.step(actions)

    def send(self, actions: dict[int, str]) -> None:
        check_slots(list(actions), self._slots)
        self._sent.put(actions)

    def receive(self, slots: Sequence[int]) -> dict[int, Observation]:
        return self._host.step(self._sent.take(slots))

    def prefetch(self, tasks: list[Task]) -> None:
        """Nothing: without another process, loading ahead is no faster than loading."""

    def close(self) -> None:
        self._host.close()
        self._slots.clear()


class ProcessPool:
    """Episodes spread over `workers` processes.

    Workers ignore Ctrl-C (the caller decides) and end with their parent. Where one dies, or says
    nothing for `seconds`, another takes its place and plays its episodes up to where they were; a
    warning says so. Raises SdarError naming the worker when that fails `LOSSES` times in a row; the
    pool is closed then. A worker answers its requests one after the other; what was not asked for
    yet is kept.
    """

    def __init__(self, workers: int, seconds: float = WORKER_SECONDS) -> None:
        if workers < 1:
            raise ValueError(f"a process pool needs at least one worker, not {workers}")
        # A missing package is one clear error here rather than one in every worker.
        load_stack()
        self._seconds = seconds
        self._workers: list[WorkerProcess] = []
        self._of_slot: dict[int, int] = {}
        self._past: dict[int, tuple[Task, list[str]]] = {}
        """Of each slot's episode, the task and the actions sent so far."""
        self._lost: Counter[int] = Counter()
        """Workers lost in a row, by index."""
        self._of_task: OrderedDict[str, int] = OrderedDict()
        self._requests = 0
        self._expected: dict[int, int] = {}  # number of the request that a slot waits for
        self._answers: dict[int, Observation | Failure] = {}
        try:
            for index in range(workers):
                self._workers.append(WorkerProcess(index, seconds))
        except BaseException:
            self.close()
            raise

    def reset(self, tasks: dict[int, Task]) -> dict[int, Observation]:
        self._check_open()
        shares: dict[int, dict[int, Task]] = {}
        loads = [0] * len(self._workers)
        for slot, task in tasks.items():
            index = self._assign(task, loads)
            loads[index] += 1
            shares.setdefault(index, {})[slot] = task
            self._of_slot[slot] = index
            self._past[slot] = (task, [])
        self._ask("reset", shares)
        return self._take(list(tasks))

    def step(self, actions: dict[int, str]) -> dict[int, Observation]:
        self.send(actions)
        return self.receive(list(actions))

    def send(self, actions: dict[int, str]) -> None:
        self._check_open()
        check_slots(list(actions), self._of_slot)
        shares: dict[int, dict[int, str]] = {}
        for slot, action in actions.items():
            if slot in self._expected:
                raise ValueError(f"slot {slot} was sent an action before its last was answered")
            shares.setdefault(self._of_slot[slot], {})[slot] = action
        for slot, action in actions.items():
            self._past[slot][1].append(action)
        self._ask("step", shares)

    def receive(self, slots: Sequence[int]) -> dict[int, Observation]:
        self._check_open()
        for slot in slots:
            if slot not in self._expected:
                raise ValueError(f"slot {slot} was asked for an answer, but was sent no action")
        return self._take(slots)

    def prefetch(self, tasks: list[Task]) -> None:
        """Workers load these games, in this order, whenever they have nothing else to do."""
        self._check_open()
        shares: dict[int, list[Task]] = {}
        loads = [0] * len(self._workers)
        for task in {task.location: task for task in tasks}.values():
            index = self._assign(task, loads)
            loads[index] += 1
            shares.setdefault(index, []).append(task)
        for index, share in shares.items():
            try:
                self._workers[index].send("prefetch", share)
            except WorkerLost as lost:
                self._replace(index, lost)

    def close(self) -> None:
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.ask_to_stop()
        deadline = time.monotonic() + STOP_SECONDS
        for worker in workers:
            worker.stop(max(0.0, deadline - time.monotonic()))
        self._of_slot.clear()
        self._past.clear()
        self._expected.clear()
        self._answers.clear()

    def __enter__(self) -> ProcessPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if not self._workers:
            raise SdarError("environment: the pool of games is closed; start the command again")

    def _assign(self, task: Task, loads: list[int]) -> int:
        """The worker of a task: the one that has it, else the one least loaded in this call."""
        known = self._of_task.get(task.location)
        if known is None:
            known = loads.index(min(loads))
            self._of_task[task.location] = known
            if len(self._of_task) > REMEMBERED_TASKS:
                self._of_task.popitem(last=False)
        else:
            self._of_task.move_to_end(task.location)
        return known

    def _ask(self, request: str, shares: dict[int, Any]) -> None:
        for share in shares.values():
            for slot in share:
                self._answers.pop(slot, None)
                self._expected[slot] = 0  # of no request yet
        for index, share in shares.items():
            try:
                self._request(index, request, share)
            except WorkerLost as lost:
                self._replace(index, lost)

    def _take(self, slots: Sequence[int]) -> dict[int, Observation]:
        """The answers of these slots, in this order, so that nothing downstream sees the workers.

        All are there before an error is raised, so that the next call finds its own.
        """
        for slot in slots:
            while slot not in self._answers:
                self._receive(self._of_slot[slot])
        for slot in slots:
            del self._expected[slot]
        answers = {slot: self._answers.pop(slot) for slot in slots}
        for answer in answers.values():
            if isinstance(answer, Failure):
                if answer.user_error:
                    raise SdarError(answer.text)
                raise RuntimeError(f"an environment worker failed:\n{answer.text}")
        return cast(dict[int, Observation], answers)

    def _request(self, index: int, request: str, share: dict[int, Any]) -> None:
        number = self._requests = self._requests + 1
        for slot in share:
            if slot in self._expected:
                self._expected[slot] = number
        self._workers[index].asked.append((number, list(share)))
        self._workers[index].send(request, share)

    def _receive(self, index: int) -> None:
        """Take in the worker's next reply."""
        worker = self._workers[index]
        try:
            reply = worker.receive()
        except WorkerLost as lost:
            self._replace(index, lost)
            return
        self._lost[index] = 0
        number, slots = worker.asked.popleft()
        for slot in slots:
            # A slot that was reset meanwhile waits for something else.
            if self._expected.get(slot) == number:
                self._answers[slot] = reply if isinstance(reply, Failure) else reply[slot]

    def _replace(self, index: int, lost: WorkerLost) -> None:
        """Give the place of a lost worker to a new one, which plays its episodes again."""
        mine = [slot for slot, owner in self._of_slot.items() if owner == index]
        waiting = [slot for slot in mine if slot in self._expected and slot not in self._answers]
        playing = [self._past[slot][0].id for slot in waiting or mine] or ["nothing"]
        more = f" and {len(playing) - 1} more" if len(playing) > 1 else ""
        while True:
            worker = self._workers[index]
            self._lost[index] += 1
            who = f"environment worker {index} (process {worker.process.pid}, playing {playing[0]}"
            if self._lost[index] >= LOSSES:
                self.close()
                raise SdarError(
                    f"{who}{more}) {lost}, as {LOSSES} in a row did: lower environment.workers, "
                    "free memory, or raise environment.worker_timeout, then run the command again"
                )
            log.warning("%s%s) %s: another one plays its episodes again", who, more, lost)
            worker.ask_to_stop()
            worker.stop(0.0)
            try:
                self._workers[index] = WorkerProcess(index, self._seconds)
                if mine:
                    self._request(index, "replay", {slot: self._past[slot] for slot in mine})
                return
            except WorkerLost as again:
                lost = again
            except OSError as error:
                self.close()
                raise SdarError(
                    f"{who}{more}) {lost}, and no other can be started ({error}): lower "
                    "environment.workers or free memory, then run the command again"
                ) from error


def make_pool(config: AlfworldConfig) -> EnvironmentPool:
    """The pool the configuration asks for: `workers` processes, or this one when 0."""
    if not config.workers:
        return LocalPool()
    return ProcessPool(config.workers, config.worker_timeout)
