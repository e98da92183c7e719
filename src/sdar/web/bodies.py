"""Bodies of requests, bounded one by one and in sum. Plain ASGI: needs no package."""

import json
from typing import Any

MOST_BYTES = 16 << 20
"""Of a request's body."""
HELD_BYTES = 64 << 20
"""Of what all requests hold; while there is more, only small bodies are let in."""
SMALL_BODY = 64 << 10


class RequestError(Exception):
    """The request cannot be answered; the client is told why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Gone(Exception):
    """The client has left."""


class Incoming:
    """A request's body as it comes (ASGI's `receive`), and whether there is more of it."""

    def __init__(self, receive: Any) -> None:
        self._receive = receive
        self.more = True

    async def __call__(self) -> Any:
        message = await self._receive()
        self.more = message["type"] == "http.request" and message.get("more_body", False)
        return message


class Held:
    """The bytes that one request holds, counted among all of `total`, a list of one number."""

    def __init__(self, total: list[int]) -> None:
        self._total = total
        self._own = 0

    def add(self, count: int) -> None:
        self._own += count
        self._total[0] += count

    def release(self) -> None:
        self._total[0] -= self._own
        self._own = 0

    @property
    def too_much(self) -> bool:
        return self._own > SMALL_BODY and self._total[0] > HELD_BYTES


def declared_length(scope: Any) -> int | None:
    """The Content-Length of a request; uvicorn lets digits alone pass."""
    length = dict(scope["headers"]).get(b"content-length")
    return None if length is None else int(length)


async def read_body(scope: Any, incoming: Incoming, held: Held) -> bytes:
    """The whole body; `RequestError` where it is too large, `Gone` where the client leaves."""
    too_large = RequestError(413, f"expected a body of at most {MOST_BYTES >> 20} MB")
    if (declared_length(scope) or 0) > MOST_BYTES:
        raise too_large
    parts, size = [], 0
    while incoming.more:
        message = await incoming()
        if message["type"] != "http.request":
            raise Gone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        held.add(len(parts[-1]))
        if size > MOST_BYTES:
            raise too_large
        if held.too_much:
            raise RequestError(503, "too much is being sent at once; try again later")
    return b"".join(parts)


async def refuse(status: int, message: str, incoming: Incoming, send: Any) -> None:
    """Answer at once; then read what is left of the body and forget it, because a client that is
    still sending would find its connection broken instead of the answer."""
    content = json.dumps({"error": message}).encode("ascii")
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode("ascii")),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": True})
    while incoming.more:
        await incoming()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


class BodyLimit:
    """ASGI middleware: `application` gets bodies whole, and none that is too large."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._total = [0]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        incoming, held = Incoming(receive), Held(self._total)
        refusal: tuple[int, str] | None = None
        try:
            whole = [await read_body(scope, incoming, held)]
        except Gone:
            return
        except RequestError as error:
            refusal = (error.status, str(error))
        finally:
            held.release()
        if refusal:  # not above: the exception holds on to the body
            await refuse(*refusal, incoming, send)
            return

        async def replayed() -> Any:
            if whole:
                return {"type": "http.request", "body": whole.pop(), "more_body": False}
            return await receive()

        await self._application(scope, replayed, send)
