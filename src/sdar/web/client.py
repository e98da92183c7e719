"""What our HTTP clients have in common: a time limit that dripping does not lengthen, a limit of
size, no redirects, no proxy for this machine, and tokens from the environment."""

import http.client
import os
import socket
import time
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from sdar.errors import SdarError


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer to be told: urllib would follow it without the request's body."""

    def redirect_request(self, *arguments: Any, **options: Any) -> None:
        return None


class _TimedSocket(socket.socket):
    """A socket whose reading ends at `deadline`, however often something comes."""

    deadline: float

    def recv_into(self, *arguments: Any, **options: Any) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self.settimeout(left)
        return super().recv_into(*arguments, **options)


class _TimedConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        deadline = time.monotonic() + float(self.timeout or 0)
        super().connect()
        timed = _TimedSocket(fileno=self.sock.detach())
        timed.settimeout(self.timeout)
        timed.deadline = deadline
        self.sock = timed


class _TimedHandler(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_TimedConnection, request)


def is_server_url(url: str) -> bool:
    """Whether it can name a server: http or https, a host, a port that is a number or none."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def opener(url: str, whole: bool = True) -> urllib.request.OpenerDirector:
    """Opens requests to `url`. Their timeout is for the `whole` answer, or for each part of it."""
    host = urlsplit(url).hostname or ""
    handlers: list[Any] = [_NoRedirects()]
    if whole:
        handlers.append(_TimedHandler())
    if host in ("localhost", "::1") or host.startswith("127."):
        # A proxy named in the environment is for other machines, never for this one.
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


def bearer(variable: str) -> dict[str, str]:
    """The header with the token that an environment variable holds, if it holds one.

    Raises `SdarError` for what no header can hold.
    """
    token = os.environ.get(variable, "").strip()
    if not (token.isascii() and token.isprintable()):
        raise SdarError(f"{variable} holds characters that no token has; set it anew, or unset it")
    return {"Authorization": f"Bearer {token}"} if token else {}


def read_answer(response: Any, most: int, seconds: float | None = None) -> bytes:
    """An answer's body, one byte more than `most` where it is longer than that.

    Raises `TimeoutError` after `seconds`, and http.client's error where it ends too early.
    """
    began, parts, declared = time.monotonic(), [], response.length
    left = most + 1 if declared is None else min(declared, most + 1)
    while left and (part := response.read1(min(1 << 20, left))):
        parts.append(part)
        left -= len(part)
        if seconds is not None and time.monotonic() - began > seconds:
            raise TimeoutError("timed out")
    content = b"".join(parts)
    if left and declared is not None:
        raise http.client.IncompleteRead(content, left)
    return content


def redirection(error: Any) -> str:
    """Where a status of 300 to 399 sends to, for a message; empty for other statuses."""
    if not 300 <= error.code < 400:
        return ""
    return f", a redirect to {str(error.headers.get('Location'))[:200]!r} (give the URL itself)"
