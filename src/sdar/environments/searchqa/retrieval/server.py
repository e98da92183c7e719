"""Search-R1's search API over one of our own retrievers, so that many workers share an index.

POST /retrieve {"queries": [...], "topk": 3, "return_scores": true} (or "query": a text or a list)
-> {"result": [[{"document": {"id", "contents"}, "score"}, ...], ...]}; without scores a result is
the list of documents. GET /health -> {"status": "ok", "passages": n}. What is wrong with a request
comes back as {"error": ...} with a 4xx status.
"""

import json
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sdar.environments.searchqa.retrieval.base import Passage, Retriever
from sdar.errors import SdarError

MOST_BYTES = 64 << 20
MOST_QUERIES = 10_000
MOST_RESULTS = 1000
IDLE_SECONDS = 120
"""A connection that says nothing for so long is closed."""


class RequestError(Exception):
    """The request cannot be answered; the client is told why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class RetrieverServer(ThreadingHTTPServer):
    """Answers searches until `shutdown`; a thread a connection, one retriever for all.

    `default_top_k` is for requests without `topk`. Raises `SdarError` when the port is taken.
    Port 0 takes any; `url` says which.
    """

    daemon_threads = True
    request_queue_size = 256

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
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise SdarError(
                f"--port {port}: cannot listen on {host} there ({error.strerror}); give another "
                "port or end what uses it"
            ) from error

    @property
    def url(self) -> str:
        host, port = str(self.server_address[0]), self.server_address[1]
        return f"http://{socket.gethostname() if host == '0.0.0.0' else host}:{port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A line instead of a traceback, and nothing for a client that went away."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            print(f"{client_address}: {type(error).__name__}: {error}", file=sys.stderr)

    def answer(self, body: Any) -> dict[str, Any]:
        """The answer to a decoded /retrieve request; `RequestError` for a wrong one."""
        queries, top_k, with_scores = read_request(body, self.default_top_k)
        results = self.retriever.search(queries, top_k)
        return {"result": [[_item(passage, with_scores) for passage in each] for each in results]}


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
    with_scores = body.get("return_scores", False)
    if not isinstance(with_scores, bool):
        raise RequestError(422, "expected `return_scores` to be true or false")
    return queries, top_k, with_scores


def _item(passage: Passage, with_score: bool) -> dict[str, Any]:
    document = {"id": passage.id, "contents": passage.contents}
    return {"document": document, "score": passage.score} if with_score else document


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    server: RetrieverServer

    def do_GET(self) -> None:
        if self.path.rstrip("/") == "/health":
            self._reply(200, {"status": "ok", "passages": self.server.passages})
        else:
            self._reply(404, {"error": "unknown path: POST /retrieve or GET /health"})

    def do_POST(self) -> None:
        try:
            if self.path.rstrip("/") != "/retrieve":
                raise RequestError(404, "unknown path: POST /retrieve or GET /health")
            self._reply(200, self.server.answer(self._body()))
        except RequestError as error:
            self.close_connection = True  # what is left of the body is not read
            self._reply(error.status, {"error": str(error)})
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the client went away
        except Exception as error:
            self.close_connection = True
            self.log_error("%s: %s", type(error).__name__, error)
            self._reply(500, {"error": f"{type(error).__name__}: {error}"})

    def _body(self) -> Any:
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            raise RequestError(411, "expected a Content-Length") from None
        if not 0 <= length <= MOST_BYTES:
            raise RequestError(413, f"expected a body of at most {MOST_BYTES >> 20} MB")
        content = self.rfile.read(length)
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise RequestError(400, "the body is not JSON") from None

    def _reply(self, status: int, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode("ascii")
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The base class's own complaints (a broken request line, another verb), as JSON too."""
        self.close_connection = True
        self._reply(code, {"error": message or explain or "the request is not understood"})

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: a line per search would be too many."""


def serve(server: RetrieverServer) -> None:
    """Serve until Ctrl-C (which ends it in order) or SIGTERM."""
    try:
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
        server.retriever.close()
