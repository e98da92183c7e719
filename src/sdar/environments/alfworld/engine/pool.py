"""Pools of ALFWorld episodes: in this process, or in worker processes that step many games each.

All episodes of one game go to one worker (so each game is loaded once), and a worker plays as many
games as it is given. Which worker plays what depends on the calls alone, and results do not depend
on it at all: observations are a function of (task, actions).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

from sdar.environments.alfworld.engine.host import Host, check_slots
from sdar.environments.alfworld.engine.textworld_api import load_stack
from sdar.environments.alfworld.engine.worker import Failure, Reply, serve
from sdar.environments.base import EnvironmentPool, Observation, Task
from sdar.environments.pools import SentActions
from sdar.errors import SdarError
from sdar.interruption import held_back

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

    from sdar.environments.alfworld.config import AlfworldConfig

STOP_SECONDS = 5.0
"""How long a worker may take to end by itself before it is killed."""
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

    Workers ignore Ctrl-C (the caller decides) and end with their parent. Raises SdarError, never
    hangs, when a worker dies; the pool is closed then. A worker answers its requests one after the
    other; what was not asked for yet is kept.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"a process pool needs at least one worker, not {workers}")
        # A missing package is one clear error here rather than one in every worker.
        load_stack()
        self._workers: list[_Worker] = []
        self._of_slot: dict[int, int] = {}
        self._of_task: OrderedDict[str, int] = OrderedDict()
        self._requests = 0
        self._expected: dict[int, int] = {}  # number of the request that a slot waits for
        self._answers: dict[int, Observation | Failure] = {}
        try:
            for index in range(workers):
                self._workers.append(_Worker(index))
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
            self._send(index, "prefetch", share)

    def close(self) -> None:
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.ask_to_stop()
        deadline = time.monotonic() + STOP_SECONDS
        for worker in workers:
            worker.stop(max(0.0, deadline - time.monotonic()))
        self._of_slot.clear()
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
        for index, share in shares.items():
            number = self._requests = self._requests + 1
            self._workers[index].asked.append((number, list(share)))
            for slot in share:
                self._expected[slot] = number
                self._answers.pop(slot, None)
            self._send(index, request, share)

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

    def _send(self, index: int, request: str, share: Any) -> None:
        try:
            self._workers[index].connection.send((request, share))
        except (BrokenPipeError, ConnectionError, EOFError):
            self._died(index)

    def _receive(self, index: int) -> None:
        """Take in the worker's next reply."""
        worker = self._workers[index]
        ready = multiprocessing.connection.wait([worker.connection, worker.process.sentinel])
        reply: Reply | None = None
        if worker.connection in ready:
            with contextlib.suppress(EOFError, ConnectionError):
                reply = worker.connection.recv()
        if reply is None:
            self._died(index)
        number, slots = worker.asked.popleft()
        for slot in slots:
            # A slot that was reset meanwhile waits for something else.
            if self._expected.get(slot) == number:
                self._answers[slot] = reply if isinstance(reply, Failure) else reply[slot]

    def _died(self, index: int) -> NoReturn:
        worker = self._workers[index]
        worker.process.join(STOP_SECONDS)
        code = worker.process.exitcode
        self.close()
        raise SdarError(
            f"environment worker {index} ended unexpectedly (exit code {code}; a negative one is "
            "a signal, -9 mostly means out of memory): lower environment.workers or free memory, "
            "then run the command again"
        )


class _Worker:
    """One worker process and the caller's end of its pipe."""

    def __init__(self, index: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.asked: deque[tuple[int, list[int]]] = deque()
        """(number, slots) of the requests it has not answered yet."""
        self.connection: Connection
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=serve, args=(theirs,), name=f"sdar-environment-{index}", daemon=True
        )
        # The child inherits the mask: Ctrl-C during its start must not print a traceback. The
        # tracker, which the first start brings up and which changes the mask, goes ahead.
        with held_back():
            multiprocessing.resource_tracker.ensure_running()
        with held_back():
            self.process.start()
        theirs.close()

    def ask_to_stop(self) -> None:
        # Closing the pipe is the request, and needs no answer.
        with contextlib.suppress(OSError):
            self.connection.close()

    def stop(self, seconds: float) -> None:
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()


def make_pool(config: AlfworldConfig) -> EnvironmentPool:
    """The pool the configuration asks for: `workers` processes, or this one when 0."""
    return ProcessPool(config.workers) if config.workers else LocalPool()
