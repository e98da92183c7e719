"""A worker process as its caller sees it: asked through a pipe, and never waited for in vain.

A worker that has ended, or that has said nothing for too long (stopped, hung, swapped out), raises
`WorkerLost`; what becomes of its episodes is the pool's business.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import socket
import struct
from collections import deque
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from sdar.environments.alfworld.engine.worker import Reply, serve
from sdar.interruption import held_back

STOP_SECONDS = 5.0
"""How long a worker may take to end by itself before it is killed."""
_SLICES = 10
"""The time limit is waited for in so many parts: where caller and worker were stopped together (a
suspended job), only the part under way counts."""


class WorkerLost(Exception):
    """The worker has ended or does not answer; the text continues "the worker ..."."""


class WorkerProcess:
    """One worker process and the caller's end of its pipe.

    `seconds`: how long it may say nothing while it is waited for; it speaks at least once per game.
    """

    def __init__(self, index: int, seconds: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.asked: deque[tuple[int, list[int]]] = deque()
        """(number, slots) of the requests it has not answered yet."""
        self._seconds = seconds
        self._connection: Connection
        self._connection, theirs = context.Pipe()
        _limit_blocking(self._connection, seconds)
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

    def send(self, request: str, share: Any) -> None:
        """Raises `WorkerLost` when it has ended, or reads nothing while the pipe is full."""
        try:
            self._connection.send((request, share))
        except BlockingIOError:
            raise self._silent() from None
        except (BrokenPipeError, ConnectionError, EOFError):
            raise self._ended() from None

    def receive(self) -> Reply:
        """Its next reply. Raises `WorkerLost`."""
        while (reply := self._next()) is None:
            continue  # it says that it is at work
        return reply

    def _next(self) -> Reply | None:
        waited_for: list[Any] = [self._connection, self.process.sentinel]
        for _ in range(_SLICES):
            ready = multiprocessing.connection.wait(waited_for, self._seconds / _SLICES)
            if self._connection in ready:
                try:
                    return self._connection.recv()  # type: ignore[no-any-return]
                except BlockingIOError:
                    raise self._silent() from None
                except (EOFError, ConnectionError):
                    raise self._ended() from None
            if ready:
                raise self._ended()
        raise self._silent()

    def _silent(self) -> WorkerLost:
        return WorkerLost(f"has not answered for {self._seconds:g} s")

    def _ended(self) -> WorkerLost:
        self.process.join(STOP_SECONDS)
        return WorkerLost(
            f"ended unexpectedly (exit code {self.process.exitcode}; a negative one is a signal, "
            "-9 mostly means out of memory)"
        )

    def ask_to_stop(self) -> None:
        # Closing the pipe is the request, and needs no answer.
        with contextlib.suppress(OSError):
            self._connection.close()

    def stop(self, seconds: float) -> None:
        """Wait so long for its end, then kill it (which ends a stopped process too)."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()


def _limit_blocking(connection: Connection, seconds: float) -> None:
    """Reading and writing fail with `BlockingIOError` after so long: a pipe that is full, or a
    message of which half has come, would be waited for without end."""
    whole, fraction = divmod(seconds, 1)
    limit = struct.pack("ll", int(whole), max(1, int(fraction * 1e6)))
    with socket.socket(fileno=os.dup(connection.fileno())) as pipe:
        pipe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        pipe.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
