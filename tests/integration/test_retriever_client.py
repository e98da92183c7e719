"""The client of search servers against servers that answer, limp, lie, hang or are not there."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sdar.environments.searchqa.retrieval.base import Passage
from sdar.environments.searchqa.retrieval.http import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    QUERIES_A_REQUEST,
    HttpRetriever,
)
from sdar.errors import SdarError

Reply = tuple[int, bytes]
Answer = Callable[[dict[str, Any], int], Reply]
"""(decoded request, how many came before) -> status and body."""


def good(body: dict[str, Any]) -> bytes:
    queries = body.get("queries", body.get("query"))
    queries = [queries] if isinstance(queries, str) else queries
    result = [
        [
            {"document": {"id": n, "contents": f"{query} {n}"}, "score": 1.0 / (n + 1)}
            for n in range(body["topk"])
        ]
        for query in queries
    ]
    return json.dumps({"result": result}).encode()


def found(query: str, top_k: int) -> list[Passage]:
    return [Passage(str(n), f"{query} {n}", 1.0 / (n + 1)) for n in range(top_k)]


class Fake(ThreadingHTTPServer):
    """A search server that answers with a function, and remembers the requests."""

    daemon_threads = True

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client gave up: that is what is tested."""


class _Handler(BaseHTTPRequestHandler):
    server: Fake

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.requests)
            self.server.requests.append(body)
        status, content = self.server.answer(body, number)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Fake]]:
    running: list[tuple[Fake, threading.Thread]] = []

    def start(answer: Answer) -> Fake:
        server = Fake(answer)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def client(*urls: str, pauses: list[float] | None = None, **options: Any) -> HttpRetriever:
    sleep = (lambda seconds: None) if pauses is None else pauses.append
    return HttpRetriever(urls, sleep=sleep, **{"timeout": 5.0, **options})


def dead_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_the_request_is_search_r1s(serve: Callable[[Answer], Fake]) -> None:
    server = serve(lambda body, n: (200, good(body)))
    assert client(server.url).search(["a", "b"], 2) == [found("a", 2), found("b", 2)]
    assert server.requests == [{"queries": ["a", "b"], "topk": 2, "return_scores": True}]


def test_a_server_that_is_down_for_a_while(serve: Callable[[Answer], Fake]) -> None:
    server = serve(lambda body, n: (503, b"loading") if n < 3 else (200, good(body)))
    pauses: list[float] = []
    assert client(server.url, pauses=pauses).search(["a"], 1) == [found("a", 1)]
    assert len(pauses) == 3
    for number, pause in enumerate(pauses):
        assert 0.5 <= pause / (FIRST_PAUSE * 2**number) <= 1.0


def test_pauses_are_bounded_jittered_and_seeded(serve: Callable[[Answer], Fake]) -> None:
    server = serve(lambda body, n: (500, b""))
    paused: dict[str, list[float]] = {"a": [], "b": [], "other": []}
    for name, seed in (("a", 1), ("b", 1), ("other", 2)):
        with pytest.raises(SdarError):
            client(server.url, pauses=paused[name], seed=seed, retries=9).search(["q"], 1)
    assert len(paused["a"]) == 9
    assert max(paused["a"]) <= LONGEST_PAUSE
    assert paused["a"] == paused["b"] != paused["other"]


def test_a_dead_server_is_named_with_the_remedy() -> None:
    url = dead_url()
    with pytest.raises(SdarError) as caught:
        client(url, retries=1).search(["a"], 1)
    message = str(caught.value)
    assert f"{url}/retrieve: no connection (Connection refused)" in message
    assert message.startswith("environment.retriever.urls: no search server answered")
    assert "start one with `sdar serve-retriever`" in message


def test_a_dead_server_is_passed_over(serve: Callable[[Answer], Fake]) -> None:
    server = serve(lambda body, n: (200, good(body)))
    pauses: list[float] = []
    retriever = client(dead_url(), server.url, dead_url(), pauses=pauses)
    queries = [f"q{n}" for n in range(7)]
    for _ in range(3):
        assert retriever.search(queries, 1) == [found(query, 1) for query in queries]
    assert pauses == [], "another server is tried at once"


def test_servers_take_turns(serve: Callable[[Answer], Fake]) -> None:
    servers = [serve(lambda body, n: (200, good(body))) for _ in range(2)]
    retriever = client(*(server.url for server in servers))
    for n in range(4):
        retriever.search([f"q{n}"], 1)
    assert [len(server.requests) for server in servers] == [2, 2]
    queries = [f"q{n}" for n in range(3 * QUERIES_A_REQUEST + 1)]
    assert retriever.search(queries, 1) == [found(query, 1) for query in queries]
    assert all(len(server.requests) == 4 for server in servers)


def test_a_hanging_server_is_given_up(serve: Callable[[Answer], Fake]) -> None:
    released = threading.Event()
    hanging = serve(lambda body, n: (released.wait(10), (200, good(body)))[1])
    healthy = serve(lambda body, n: (200, good(body)))
    try:
        retriever = client(hanging.url, healthy.url, timeout=0.3)
        assert retriever.search(["a"], 1) == [found("a", 1)]
        with pytest.raises(SdarError, match=r"no answer within 0\.3 s"):
            client(hanging.url, timeout=0.3, retries=0).search(["a"], 1)
    finally:
        released.set()


def test_a_server_that_accepts_and_says_nothing() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(SdarError, match=r"no answer within 0\.2 s"):
            client(url, timeout=0.2, retries=1).search(["a"], 1)


HTML = b"<!DOCTYPE html><html><body>Please log in</body></html>"


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (500, b"Internal Server Error", "status 500, saying 'Internal Server Error'"),
        (502, HTML, "status 502, saying '<!DOCTYPE html>"),
        (404, b"", "status 404, saying nothing"),
        (422, b'{"detail": "no"}', "status 422"),
        (200, HTML, "not JSON but '<!DOCTYPE html>"),
        (200, b"", "an empty answer"),
        (200, b'{"result": [[', "not JSON"),
        (200, b"[]", "JSON without a list `result`"),
        (200, b'{"error": "no"}', "JSON without a list `result`"),
        (200, b'{"result": []}', "0 results for 2 queries"),
        (200, b'{"result": [[], [], []]}', "3 results for 2 queries"),
        (200, b'{"result": [[], {}]}', "a result that is no list of documents"),
        (200, b'{"result": [[], ["x"]]}', "a result without"),
        (200, b'{"result": [[], [{"document": {"id": 1}, "score": 1}]]}', "a result without"),
        (200, b'{"result": [[], [{"document": null, "score": 1}]]}', "a result without"),
        (
            200,
            b'{"result": [[], [{"document": {"id": 1, "contents": "x"}, "score": "y"}]]}',
            "a result without",
        ),
    ],
)
def test_what_is_no_answer_is_told(
    serve: Callable[[Answer], Fake], status: int, body: bytes, reason: str
) -> None:
    server = serve(lambda request, n: (status, body))
    with pytest.raises(SdarError) as caught:
        client(server.url, retries=1).search(["a", "b"], 1)
    assert f"{server.url}/retrieve: {reason}" in str(caught.value)
    # And a healthy server beside it is used instead.
    healthy = serve(lambda request, n: (200, good(request)))
    assert client(server.url, healthy.url).search(["a", "b"], 1) == [found("a", 1), found("b", 1)]


def test_one_part_that_fails_ends_the_pauses_of_the_others(serve: Callable[[Answer], Fake]) -> None:
    """Two parts on two servers; the request that holds "a" is refused by both, the other is put
    off for minutes. The refusal ends the search at once."""

    def answer(body: dict[str, Any], n: int) -> Reply:
        return (403, b"no") if "a" in body["queries"] else (503, b"later")

    retriever = HttpRetriever([serve(answer).url, serve(answer).url], timeout=5, retries=60)
    start = time.monotonic()
    with pytest.raises(SdarError, match="status 403"):
        retriever.search(["a", "b"], 1)
    retriever._threads.shutdown(wait=True)
    assert time.monotonic() - start < 3


def test_a_refusal_is_not_repeated(serve: Callable[[Answer], Fake]) -> None:
    server = serve(lambda body, n: (403, b"forbidden"))
    pauses: list[float] = []
    with pytest.raises(SdarError, match="status 403, saying 'forbidden'"):
        client(server.url, pauses=pauses).search(["a"], 1)
    assert (len(server.requests), pauses) == (1, [])


@pytest.mark.parametrize("refusal", [422, 400, 500])
@pytest.mark.parametrize("several", [True, False])
def test_servers_that_want_query(
    serve: Callable[[Answer], Fake], refusal: int, several: bool
) -> None:
    kind = list if several else str

    def answer(body: dict[str, Any], n: int) -> Reply:
        return (200, good(body)) if isinstance(body.get("query"), kind) else (refusal, b"what?")

    server = serve(answer)
    retriever = client(server.url)
    for _ in range(2):
        assert retriever.search(["a", "b"], 1) == [found("a", 1), found("b", 1)]
    # The form is found out once.
    assert len(server.requests) == (1 + 1 + 1 if several else 2 + 2 + 2)


def test_more_documents_than_asked_for_are_cut(serve: Callable[[Answer], Fake]) -> None:
    server = serve(lambda body, n: (200, good(body | {"topk": 9})))
    assert client(server.url).search(["a"], 2) == [found("a", 2)]


def test_the_environments_proxy_is_not_for_this_machine(
    serve: Callable[[Answer], Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", dead_url())
    server = serve(lambda body, n: (200, good(body)))
    assert client(server.url).search(["a"], 1) == [found("a", 1)]


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/retrieve", "http://", ""])
def test_what_is_no_url_is_told(url: str) -> None:
    with pytest.raises(SdarError, match=r"environment\.retriever\.urls: .*is no URL"):
        HttpRetriever([url])


def test_no_urls_are_told() -> None:
    with pytest.raises(SdarError, match=r"retriever\.urls is empty"):
        HttpRetriever([])


def test_urls_with_and_without_a_path() -> None:
    retriever = HttpRetriever(["http://a:1", "http://a:1/", "http://a:1/api/retrieve"])
    assert retriever.urls == (
        "http://a:1/retrieve",
        "http://a:1/retrieve",
        "http://a:1/api/retrieve",
    )
