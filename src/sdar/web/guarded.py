"""uvicorn, guarded: what a client may take of a server's time, memory and connections.

uvicorn itself waits for ever for a request that is begun and not ended, and for a client that does
not read its answer. Here every wait for a client has an end, and where connections run out the one
that has kept the server waiting longest makes room. Importing this needs the extra `serve`.
"""

import asyncio
import functools
import json
import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS = {"head": 10.0, "body": 30.0, "answer": 60.0, "idle": 75.0}
"""How long a client may take: to send a request's head, to send its body, to read the answer, and
to begin another request."""
MOST_CONNECTIONS = 512
LONGEST_HEAD = 16 << 10
ACCEPTED_AT_ONCE = 16
WAITING_FOR_ACCEPT = 256
STOP_SECONDS = 5
"""Requests under way may still be answered for so long after Ctrl-C."""


@functools.cache
def _free_descriptors() -> int:
    """How many files this process may still open, when first asked: before it serves."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(0, most - len([*Path("/dev/fd").iterdir()])) if most >= 0 else 1 << 20


def most_connections(many: bool = False) -> int:
    """Half of the free file descriptors, at most `MOST_CONNECTIONS` unless `many`: what is accepted
    before its turn to be counted, and files, need some too."""
    half = max(1, _free_descriptors() // 2)
    return half if many else min(MOST_CONNECTIONS, half)


def guard_uvicorn() -> None:
    """Guard every server that this process starts with uvicorn from here on, say vLLM's."""
    plain: Any = uvicorn.Config

    class Guarded(plain):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options | {"http": _StreamingProtocol, "ws": "none"})

    uvicorn.Config = Guarded  # type: ignore[misc]


class GuardedServer(uvicorn.Server):
    """Serves an ASGI application on a listening socket, silently; `ready` is called first.

    `run(sockets=[socket])` returns after `should_exit`. In the main thread SIGINT and SIGTERM end
    it in order, and are then raised again for the handlers that were there before.
    """

    ready: Callable[[], None] | None = None

    def __init__(self, application: Any) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                http=_GuardedProtocol,
                ws="none",
                loop="asyncio",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=max(1, min(ACCEPTED_AT_ONCE, _free_descriptors() // 10)),
                h11_max_incomplete_event_size=LONGEST_HEAD,
                timeout_keep_alive=int(SECONDS["idle"]),
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(_Told())
        await super().startup(sockets)
        # asyncio accepts as many at once as its backlog says, before any of them is counted; that
        # many more may wait in the kernel.
        for listening in sockets or []:
            listening.listen(WAITING_FOR_ACCEPT)
        if self.ready is not None:
            self.ready()


class _Told:
    """What asyncio complains of (no file descriptor is left, say), in a line, and once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        line = f"{context['message']}: {context.get('exception')}"
        if line not in self._told:
            self._told.add(line)
            print(line, file=sys.stderr, flush=True)


class _GuardedProtocol(H11Protocol):
    """One connection. `phase` is what it waits for: a key of `SECONDS`, or `work`, our own."""

    streams = False
    """Answers come as they are made and may take any time; then no client is slow to read one, and
    there may be as many connections as half of the file descriptors allow."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.phase, self.since = "", 0.0
        self._timer: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > most_connections(self.streams):
            self._make_room()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP, or too long a head, is told as JSON too."""
        content = json.dumps({"error": msg}).encode("ascii")
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"connection", b"close"),
        ]
        parts = [
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=content),
            h11.EndOfMessage(),
        ]
        if self.conn.our_state is h11.IDLE or self.conn.our_state is h11.SEND_RESPONSE:
            for part in parts:
                self.transport.write(self.conn.send(part) or b"")
        self.transport.close()

    def _watch(self) -> None:
        """Begin the time of a new phase; a client that goes on dripping begins nothing."""
        phase = self._waits_for()
        if phase == self.phase:
            return
        self.phase, self.since = phase, self.loop.time()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if phase in SECONDS:
            self._timer = self.loop.call_later(SECONDS[phase], self._drop)

    def _waits_for(self) -> str:
        if self.conn.their_state is h11.SEND_BODY:
            return "body"
        if self.cycle is None:
            return "head"
        if self.cycle.response_complete:
            return "head" if self.conn.trailing_data[0] else "idle"
        return "answer" if self.cycle.response_started and not self.streams else "work"

    def _make_room(self) -> None:
        """Drop the connection that has kept us waiting longest; this one where all are at work."""
        others = self.connections - {self}
        waiting = [other for other in others if getattr(other, "phase", "work") != "work"]
        oldest: Any = min(waiting, key=lambda other: other.since, default=self)  # type: ignore
        oldest._drop()

    def _drop(self) -> None:
        self.connections.discard(self)  # it is closed only in the loop's next round
        self.transport.abort()


class _StreamingProtocol(_GuardedProtocol):
    streams = True
