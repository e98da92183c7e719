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
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from sdar.environments.alfworld.host import Host, check_slots
from sdar.environments.alfworld.textworld_api import load_stack
from sdar.environments.alfworld.worker import Failure, Reply, serve
from sdar.environments.base import EnvironmentPool, Observation, Task
from sdar.errors import SdarError
from sdar.interruption import held_back

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

    from sdar.config.alfworld import AlfworldConfig

STOP_SECONDS = 5.0
"""How long a worker may take to end by itself before it is killed."""
REMEMBERED_TASKS = 10_000
"""Tasks whose worker is remembered; an older one may be loaded again elsewhere."""


class LocalPool:
    """All episodes in the caller's process."""

    def __init__(self) -> None:
        self._host = Host()
        self._slots: set[int] = set()

    def reset(self, tasks: dict[int, Task]) -> dict[int, Observation]:
        observations = self._host.reset(tasks)
        self._slots.update(tasks)
        return observations

    def step(self, actions: dict[int, str]) -> dict[int, Observation]:
        check_slots(list(actions), self._slots)
        return self._host.step(actions)

    def prefetch(self, tasks: list[Task]) -> None:
        """Nothing: without another process, loading ahead is no faster than loading."""

    def close(self) -> None:
        self._host.close()
        self._slots.clear()


class ProcessPool:
    """Episodes spread over `workers` processes.

    Workers ignore Ctrl-C (the caller decides) and end with their parent. Raises SdarError, never
    hangs, when a worker dies; the pool is closed then.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"a process pool needs at least one worker, not {workers}")
        # A missing package is one clear error here rather than one in every worker.
        load_stack()
        self._workers: list[_Worker] = []
        self._of_slot: dict[int, int] = {}
        self._of_task: OrderedDict[str, int] = OrderedDict()
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
        return self._in_order(tasks, self._ask("reset", shares))

    def step(self, actions: dict[int, str]) -> dict[int, Observation]:
        self._check_open()
        check_slots(list(actions), self._of_slot)
        shares: dict[int, dict[int, str]] = {}
        for slot, action in actions.items():
            shares.setdefault(self._of_slot[slot], {})[slot] = action
        return self._in_order(actions, self._ask("step", shares))

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

    def _ask(self, request: str, shares: dict[int, Any]) -> dict[int, Observation]:
        for index, share in shares.items():
            self._send(index, request, share)
        # Every reply is taken before an error is raised, so that the next call finds its own.
        replies: list[Reply] = [self._receive(index) for index in shares]
        observations: dict[int, Observation] = {}
        for reply in replies:
            if isinstance(reply, Failure):
                if reply.user_error:
                    raise SdarError(reply.text)
                raise RuntimeError(f"an environment worker failed:\n{reply.text}")
            observations.update(reply)
        return observations

    def _send(self, index: int, request: str, share: Any) -> None:
        try:
            self._workers[index].connection.send((request, share))
        except (BrokenPipeError, ConnectionError, EOFError):
            self._died(index)

    def _receive(self, index: int) -> Reply:
        worker = self._workers[index]
        ready = multiprocessing.connection.wait([worker.connection, worker.process.sentinel])
        if worker.connection in ready:
            try:
                return worker.connection.recv()
            except (EOFError, ConnectionError):
                pass
        return self._died(index)

    def _died(self, index: int) -> Any:
        worker = self._workers[index]
        worker.process.join(STOP_SECONDS)
        code = worker.process.exitcode
        self.close()
        raise SdarError(
            f"environment worker {index} ended unexpectedly (exit code {code}; a negative one is "
            "a signal, -9 mostly means out of memory): lower environment.workers or free memory, "
            "then run the command again"
        )

    @staticmethod
    def _in_order(
        asked: dict[int, Any], observations: dict[int, Observation]
    ) -> dict[int, Observation]:
        """In the caller's order of slots, so that nothing downstream sees the workers."""
        return {slot: observations[slot] for slot in asked}


class _Worker:
    """One worker process and the caller's end of its pipe."""

    def __init__(self, index: int) -> None:
        context = multiprocessing.get_context("spawn")
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
