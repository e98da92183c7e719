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
from sdar.errors import SdarError
from sdar.web.bodies import (
    Gone,
    Held,
    Incoming,
    RequestError,
    declared_length,
    read_body,
    refuse,
)
from sdar.web.guarded import GuardedServer

MOST_QUERIES = 10_000
MOST_RESULTS = 1000
MOST_PASSAGES = 100_000
"""Queries of a request times `topk`."""
SEARCHES_AT_ONCE = 4
QUERIES_AT_ONCE = 256
"""A search looks between so many whether the server has ended."""
CHUNK = 256 << 10


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
        self.held = [0]
        """Bytes of bodies and answers under way."""

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
        incoming, held = Incoming(receive), Held(self.held)
        request = Request(scope, incoming)
        refusal: tuple[int, str] | None = None
        try:
            content = await self._content(request, incoming, held)
            held.add(len(content))
            await _streamed(content)(scope, incoming, send)
        except (Gone, ClientDisconnect):
            pass
        except RequestError as error:
            refusal = (error.status, str(error))
        except Exception as error:
            refusal = (500, f"{type(error).__name__}: {error}")
            print(f"{scope['client']}: {refusal[1]}", file=sys.stderr)
        finally:
            held.release()
        if refusal:  # not above: the exception holds on to the body
            await refuse(*refusal, incoming, send)

    async def _content(self, request: Request, incoming: Incoming, held: Held) -> bytes:
        path = request.url.path.rstrip("/")
        if (request.method, path) == ("GET", "/health"):
            return json.dumps({"status": "ok", "passages": self.passages}).encode("ascii")
        if path not in ("/health", "/retrieve"):
            raise RequestError(404, "unknown path: POST /retrieve or GET /health")
        if (request.method, path) != ("POST", "/retrieve"):
            raise RequestError(405, f"{request.method} is not for {path}")
        if declared_length(request.scope) is None:
            raise RequestError(411, "expected a Content-Length")
        body = await read_body(request.scope, incoming, held)
        if await request.is_disconnected():
            raise Gone
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


def _item(passage: Passage, with_score: bool) -> dict[str, Any]:
    document = {"id": passage.id, "contents": passage.contents}
    return {"document": document, "score": passage.score} if with_score else document


def _streamed(content: bytes) -> Response:
    """In parts: the next is written once the client has read most of those before."""

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(content), CHUNK):
            yield content[start : start + CHUNK]

    headers = {"Content-Length": str(len(content))}
    return StreamingResponse(parts(), headers=headers, media_type="application/json")
