"""Games made in several processes, any of which may be lost on the way."""

import functools
import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from sdar.environments.alfworld.world.generator import Request, make_game
from sdar.environments.base import Task
from sdar.errors import SdarError
from sdar.interruption import leave_to_parent
from sdar.progress import Progress

log = logging.getLogger("sdar.environments")

LOSSES = 3
"""So many times in a row may processes be lost at the same game."""
Given = TypeVar("Given")
Made = TypeVar("Made")


def make_games(requests: Sequence[Request], workers: int, seconds: float) -> list[Task]:
    """All games in the order of the requests, whatever the number of processes and their fate.

    `seconds`: how long one game may take before its process counts as lost.
    """
    bar = functools.partial(Progress, total=len(requests), desc="games", unit="game")
    if workers < 2:
        return list(bar(map(make_game, requests)))
    return list(bar(made(make_game, requests, workers, seconds)))


def made(
    make: Callable[[Given], Made], requests: Sequence[Given], workers: int, seconds: float
) -> Iterator[Made]:
    """`make` of each request, in order. What lost processes had not delivered is made again, which
    gives the same. Raises `SdarError` when that fails `LOSSES` times in a row at one request."""
    done = lost = 0
    while done < len(requests):
        # spawn: the engine's libraries and any threads of the caller do not survive a fork.
        spawn = multiprocessing.get_context("spawn")
        # The loss of one is the loss of all that were at work: afterwards one at a time.
        pool = ProcessPoolExecutor(1 if lost else workers, spawn, initializer=leave_to_parent)
        try:
            for future in [pool.submit(make, request) for request in requests[done:]]:
                result = future.result(timeout=seconds)
                done, lost = done + 1, 0
                yield result
        except (BrokenProcessPool, TimeoutError) as error:
            lost += 1
            ended = isinstance(error, BrokenProcessPool)
            why = "has ended unexpectedly" if ended else f"has not answered for {seconds:g} s"
            pids = ", ".join(str(pid) for pid in pool._processes or {})
            said = f"a process ({pids}) that makes {_name(requests[done])} {why}"
            if lost >= LOSSES:
                raise SdarError(
                    f"environment: {said}, {lost} times in a row: free memory, or raise "
                    "environment.worker_timeout, then run the command again"
                ) from None
            log.warning("%s: what is missing is made again", said)
        finally:
            # Killed: one that is stopped would be waited for in vain.
            for process in (pool._processes or {}).values():
                process.kill()
            pool.shutdown(cancel_futures=True)


def _name(request: object) -> str:
    return f"{request.split} {request.index}" if isinstance(request, Request) else f"{request}"
