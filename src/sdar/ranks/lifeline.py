"""How ranks notice that one of them has died: a connection that only a living process keeps open.

A collective of NCCL waits for a dead peer until its time-out, and a launcher sees only the
processes of its own machine. Here every rank has a TCP connection with rank 0. The kernel closes a
dead process's connections at once, whatever killed it; where a whole machine is gone, the kernel's
keep-alive probes notice in half a minute. A rank that ends as it should says so first. A process
that hears of a death gives its main thread a little time to end by itself (a collective fails,
files are closed), and then exits.
"""

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from sdar.interruption import Stopped

GRACE = 10.0
"""Seconds from the news of a death to the end of the process."""
LOST_EXIT_CODE = 71
_FAREWELL = b"bye"
_CONNECT_SECONDS = 60.0
# Keep-alive: seconds of silence before the first probe, seconds between probes, their number.
_IDLE, _INTERVAL, _PROBES = 10, 5, 4


@contextlib.contextmanager
def lifeline(rank: int, count: int, broadcast: Callable[[Any], Any]) -> Iterator[None]:
    """A block in which the death of another rank ends this process as well.

    All ranks enter it; `broadcast` gives all of them rank 0's value. Leaving the block by an
    exception counts as a death, so that the others end too, except for `Stopped`, which all ranks
    raise together.
    """
    others = _connect(rank, count, broadcast)
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(rank, others, over), daemon=True, name="lifeline")
    watch.start()
    try:
        yield
    except Stopped:
        _say_farewell(others, watch)
        raise
    else:
        _say_farewell(others, watch)
    finally:
        over.set()
        _hang_up(others)


def _say_farewell(others: dict[socket.socket, int], watch: threading.Thread) -> None:
    """Say that this rank ends as it should, and wait a while until the others have."""
    for connection in others:
        with contextlib.suppress(OSError):
            connection.sendall(_FAREWELL)
    watch.join(_CONNECT_SECONDS)


def _connect(rank: int, count: int, broadcast: Callable[[Any], Any]) -> dict[socket.socket, int]:
    """Connections, each with the rank at its other end."""
    host = os.environ.get("MASTER_ADDR", "localhost")
    if rank == 0:
        server = _listen()
        server.settimeout(_CONNECT_SECONDS)
        with server:
            broadcast(server.getsockname()[1])
            others = {}
            for _ in range(1, count):
                connection, _ = server.accept()
                connection.settimeout(_CONNECT_SECONDS)
                others[_kept_alive(connection)] = int.from_bytes(connection.recv(4), "big")
        return others
    connection = socket.create_connection((host, broadcast(None)), _CONNECT_SECONDS)
    connection.sendall(rank.to_bytes(4, "big"))
    return {_kept_alive(connection): 0}


def _listen() -> socket.socket:
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _kept_alive(connection: socket.socket) -> socket.socket:
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", _IDLE),
        ("TCP_KEEPINTVL", _INTERVAL),
        ("TCP_KEEPCNT", _PROBES),
    ):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return connection


def _hang_up(others: dict[socket.socket, int]) -> None:
    for connection in others:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


def _watch(rank: int, others: dict[socket.socket, int], over: threading.Event) -> None:
    """Wait for the others' farewells; end the process when a connection closes without one."""
    waiting = dict(others)
    while waiting:
        try:
            ready, _, _ = select.select(list(waiting), [], [])
        except (OSError, ValueError):
            return  # closed by this process itself
        for connection in ready:
            try:
                said = connection.recv(len(_FAREWELL))
            except OSError:
                said = b""
            if over.is_set():
                return
            if not said:
                _end(rank, others, waiting[connection])
            del waiting[connection]


def _end(rank: int, others: dict[socket.socket, int], dead: int) -> NoReturn:
    words = (
        f"sdar: rank {dead} has ended before its work was done (see its own message), so rank "
        f"{rank} ends too; run the same command again to continue from the newest checkpoint\n"
    )
    with contextlib.suppress(OSError):
        os.write(2, words.encode())
    _hang_up(others)  # rank 0 passes the news on
    time.sleep(GRACE)
    os._exit(LOST_EXIT_CODE)
