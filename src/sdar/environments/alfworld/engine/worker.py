"""The worker process: plays what it is told, and loads the games of the future in between."""

import os
import queue
import threading
import time
import traceback
from collections import deque
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from sdar.environments.alfworld.engine.host import Host
from sdar.environments.base import Observation, Task
from sdar.errors import SdarError
from sdar.interruption import leave_to_parent


class Failure(NamedTuple):
    """An exception on its way to the caller."""

    user_error: bool
    text: str


PULSE_SECONDS = 1.0
"""From one sign of life to the next, while a request takes longer."""
Reply = dict[int, Observation] | Failure


def serve(connection: Connection) -> None:
    """Answer requests until the other end of the pipe is gone.

    Requests are ("reset", tasks by slot), ("step", actions by slot) and ("replay", tasks and
    actions by slot), answered in the order in which they came, and ("prefetch", tasks), not
    answered: those games are loaded while no request waits. While a request takes long, None says
    that it is under way.
    """
    leave_to_parent()
    host = Host(_Pulse(connection))
    ahead: deque[Task] = deque()
    requests: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    # Requests are read as they come: were both pipes full, caller and worker would wait for each
    # other.
    threading.Thread(target=_read, args=(connection, requests), daemon=True).start()
    try:
        while True:
            if ahead and requests.empty():
                host.load(ahead.popleft())
                continue
            request, share = requests.get()
            if request == "prefetch":
                # Only what comes next is worth loading: an older plan is dropped.
                ahead = deque(share)
                continue
            connection.send(_answer(host, request, share))
    except (ConnectionError, BrokenPipeError):
        _leave()


class _Pulse:
    """Says that the worker is at work, at most once in `PULSE_SECONDS`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._last = time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._last >= PULSE_SECONDS:
            self._last = now
            self._connection.send(None)


def _read(connection: Connection, requests: "queue.SimpleQueue[tuple[str, Any]]") -> None:
    try:
        while True:
            requests.put(connection.recv())
    except (EOFError, ConnectionError):
        _leave()


def _leave() -> None:
    """The caller closed its end or died: nobody is left to play for. The libraries are released by
    the kernel."""
    os._exit(0)


def _answer(host: Host, request: str, share: dict) -> Reply:
    try:
        answer: Any = {"reset": host.reset, "step": host.step, "replay": host.replay}[request]
        replied: Reply = answer(share)
        return replied
    except SdarError as error:
        return Failure(True, str(error))
    except Exception:
        return Failure(False, traceback.format_exc())
