"""Search-R1's search API over one of our own retrievers, so that many workers share an index.

POST /retrieve {"queries": [...], "topk": 3, "return_scores": true} (or "query": a text or a list)
-> {"result": [[{"document": {"id", "contents"}, "score"}, ...], ...]}; without scores a result is
the list of documents. GET /health -> {"status": "ok", "passages": n}. What is wrong with a request
comes back as {"error": ...} with a 4xx status; 503 means: later.

Importing this needs the extra `serve` (Starlette and uvicorn).
"""

import asyncio
import ipaddress
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from sdar.environments.searchqa.retrieval.base import Passage, Retriever
from sdar.environments.searchqa.retrieval.guarded import GuardedServer
from sdar.errors import SdarError

MOST_BYTES = 16 << 20
"""Of a request's body."""
MOST_QUERIES = 10_000
MOST_RESULTS = 1000
MOST_PASSAGES = 100_000
"""Queries of a request times `topk`."""
HELD_BYTES = 64 << 20
"""Of bodies and answers of all requests; while there are more, only small ones are let in."""
SMALL_BODY = 64 << 10
SEARCHES_AT_ONCE = 4
QUERIES_AT_ONCE = 256
"""A search looks between so many whether the server has ended."""
CHUNK = 256 << 10


class RequestError(Exception):
    """The request cannot be answered; the client is told why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class RetrieverServer:
    """Answers searches until `shutdown` or Ctrl-C; one retriever for all. A context manager.

    `default_top_k` is for requests without `topk`. Raises `SdarError` when the port is taken.
    Port 0 takes any; `url` says which.
    """

    def __init__(
        self,
        retriever: Retriever,
        passages: int,
        host: str = "127.0.0.1",
        port: int = 0,
        default_top_k: int = 3,
    ) -> None:
        self.retriever = retriever
        self.passages = passages
        self.default_top_k = default_top_k
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family)
        except OSError as error:
            raise SdarError(
                f"--port {port}: cannot listen on {host} there ({error.strerror}); give another "
                "port or end what uses it"
            ) from error
        self.server_address = self._socket.getsockname()
        self._server = GuardedServer(self._answer)
        self._threads = ThreadPoolExecutor(SEARCHES_AT_ONCE, thread_name_prefix="search")
        self._held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._socket.close()

    @property
    def url(self) -> str:
        host, port = str(self.server_address[0]), self.server_address[1]
        if ipaddress.ip_address(host).is_unspecified:
            host = socket.gethostname()
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def private(self) -> bool:
        """Whether this machine alone reaches it."""
        return ipaddress.ip_address(self.server_address[0]).is_loopback

    def serve_forever(self, ready: Callable[[], None] | None = None) -> None:
        """Call `ready`, and serve until `shutdown`, or until SIGINT or SIGTERM in the main thread,
        whose earlier handlers then run."""
        self._server.ready = ready
        self._server.run(sockets=[self._socket])

    def shutdown(self) -> None:
        self._server.should_exit = True

    def search(self, body: bytes) -> bytes:
        """The answer to a /retrieve request; `RequestError` for a wrong one."""
        try:
            decoded = json.loads(body)
        except (ValueError, RecursionError):
            raise RequestError(400, "the body is not JSON") from None
        queries, top_k, with_scores = read_request(decoded, self.default_top_k)
        found: list[list[Passage]] = []
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            if self._server.should_exit:
                raise RequestError(503, "the server is ending")
            found += self.retriever.search(queries[start : start + QUERIES_AT_ONCE], top_k)
        result = [[_item(passage, with_scores) for passage in each] for each in found]
        return json.dumps({"result": result}).encode("ascii")

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        """The application (ASGI)."""
        incoming, held = _Incoming(receive), _Held(self)
        request = Request(scope, incoming)
        refusal: tuple[int, str] | None = None
        try:
            content = await self._content(request, held)
            held.add(len(content))
            await _streamed(content)(scope, incoming, send)
        except ClientDisconnect:
            pass
        except RequestError as error:
            refusal = (error.status, str(error))
        except Exception as error:
            refusal = (500, f"{type(error).__name__}: {error}")
            print(f"{scope['client']}: {refusal[1]}", file=sys.stderr)
        finally:
            held.release()
        if refusal:  # not above: the exception holds on to the body
            await _refuse(*refusal, incoming, send)

    async def _content(self, request: Request, held: "_Held") -> bytes:
        path = request.url.path.rstrip("/")
        if (request.method, path) == ("GET", "/health"):
            return json.dumps({"status": "ok", "passages": self.passages}).encode("ascii")
        if path not in ("/health", "/retrieve"):
            raise RequestError(404, "unknown path: POST /retrieve or GET /health")
        if (request.method, path) != ("POST", "/retrieve"):
            raise RequestError(405, f"{request.method} is not for {path}")
        body = await _read_body(request, held)
        if await request.is_disconnected():
            raise ClientDisconnect
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.search, body)


def read_request(body: Any, default_top_k: int) -> tuple[list[str], int, bool]:
    """(queries, top_k, return_scores) of a request's JSON; `RequestError` says what is wrong."""
    if not isinstance(body, dict):
        raise RequestError(422, "expected a JSON object with `queries`")
    given = body.get("queries", body.get("query"))
    queries = [given] if isinstance(given, str) else given
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise RequestError(422, "expected `queries`, a list of texts (or `query`)")
    if len(queries) > MOST_QUERIES:
        raise RequestError(413, f"{len(queries)} queries; at most {MOST_QUERIES} a request")
    top_k = body.get("topk")
    top_k = default_top_k if top_k is None else top_k
    if not isinstance(top_k, int) or isinstance(top_k, bool) or not 1 <= top_k <= MOST_RESULTS:
        raise RequestError(422, f"expected `topk` from 1 to {MOST_RESULTS}")
    if len(queries) * top_k > MOST_PASSAGES:
        raise RequestError(
            413, f"{len(queries)} queries with `topk` {top_k}; at most {MOST_PASSAGES} passages"
        )
    with_scores = body.get("return_scores", False)
    if not isinstance(with_scores, bool):
        raise RequestError(422, "expected `return_scores` to be true or false")
    return queries, top_k, with_scores


class _Incoming:
    """The request's body as it comes (ASGI's `receive`), and whether there is more of it."""

    def __init__(self, receive: Any) -> None:
        self._receive = receive
        self.more = True

    async def __call__(self) -> Any:
        message = await self._receive()
        self.more = message["type"] == "http.request" and message.get("more_body", False)
        return message


class _Held:
    """The bytes that one request holds, counted among all."""

    def __init__(self, server: RetrieverServer) -> None:
        self._server = server
        self._own = 0

    def add(self, count: int) -> None:
        self._own += count
        self._server._held += count

    def release(self) -> None:
        self._server._held -= self._own

    @property
    def too_much(self) -> bool:
        return self._own > SMALL_BODY and self._server._held > HELD_BYTES


def _item(passage: Passage, with_score: bool) -> dict[str, Any]:
    document = {"id": passage.id, "contents": passage.contents}
    return {"document": document, "score": passage.score} if with_score else document


async def _read_body(request: Request, held: _Held) -> bytes:
    declared = request.headers.get("content-length")
    if declared is None:
        raise RequestError(411, "expected a Content-Length")
    if int(declared) > MOST_BYTES:  # h11 lets digits alone pass
        raise RequestError(413, f"expected a body of at most {MOST_BYTES >> 20} MB")
    parts = []
    async for part in request.stream():
        parts.append(part)
        held.add(len(part))
        if held.too_much:
            raise RequestError(503, "too much is being sent at once; try again later")
    return b"".join(parts)


def _streamed(content: bytes) -> Response:
    """In parts: the next is written once the client has read most of those before."""

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(content), CHUNK):
            yield content[start : start + CHUNK]

    headers = {"Content-Length": str(len(content))}
    return StreamingResponse(parts(), headers=headers, media_type="application/json")


async def _refuse(status: int, message: str, incoming: _Incoming, send: Any) -> None:
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
