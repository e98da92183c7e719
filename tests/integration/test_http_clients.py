"""HTTP clients against servers that drip, lie, redirect and exaggerate: a sentence each time."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from sdar.environments.searchqa.retrieval import http as retriever_http
from sdar.environments.searchqa.retrieval.http import HttpRetriever
from sdar.errors import SdarError
from sdar.rollout.engines.vllm import http as vllm_http
from sdar.rollout.engines.vllm.http import VllmHttp

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class Raw:
    """Sends the parts to every client, with pauses between them; remembers the requests."""

    def __init__(self, parts: list[bytes], pause: float = 0.0) -> None:
        self.parts, self.pause = parts, pause
        self.requests: list[bytes] = []
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            request = b""
            while not request.endswith(b"}"):
                request += connection.recv(1 << 16)
            self.requests.append(request)
            for part in self.parts:
                connection.sendall(part)
                time.sleep(self.pause)


@pytest.fixture
def serve() -> Iterator[Callable[..., Raw]]:
    running: list[Raw] = []

    def start(*parts: bytes, pause: float = 0.0) -> Raw:
        running.append(Raw([*parts], pause))
        return running[-1]

    yield start
    for server in running:
        server.listening.close()


def whole(content: bytes) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n" % len(content) + content


def result(contents: object = "x", score: object = 1.0) -> bytes:
    answer = {"result": [[{"document": {"id": 1, "contents": contents}, "score": score}]]}
    return json.dumps(answer).encode()


def search(url: str, timeout: float = 10.0) -> str:
    """What the retriever's client finds, or says."""
    client = HttpRetriever([url], timeout=timeout, retries=0)
    try:
        return client.search(["a"], 1)[0][0].contents
    except SdarError as error:
        return str(error)
    finally:
        client.close()


def drip(text: bytes) -> list[bytes]:
    return [text[i : i + 1] for i in range(len(text))]


@pytest.mark.parametrize(
    "parts",
    [drip(OK * 100), [OK, b"Content-Length: 1000\r\n\r\n", *drip(b" " * 1000)]],
    ids=["head", "body"],
)
def test_dripping_does_not_lengthen_the_time(serve: Callable[..., Raw], parts: list[bytes]) -> None:
    assert "no answer within 0.5 s" in search(serve(*parts, pause=0.05).url, timeout=0.5)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\n\r\n",
            "redirect to 'http://log",
        ),
        (b"HTTP/1.1 307 Moved\r\nLocation: /other\r\n\r\n", "status 307, a redirect to '/other'"),
        (b"HTTP/1.1 301 Moved\r\n\r\n", "status 301, a redirect to 'None'"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "no connection"),
        (b"", "no connection"),
        (OK + b"Content-Length: 1000\r\n\r\n{", "no connection (IncompleteRead"),
        (OK + b"X: y\r\n" * 200 + b"\r\n{}", "no connection (got more than 100 headers)"),
        (OK + b"X: " + b"y" * 100_000 + b"\r\n\r\n{}", "no connection (got more than 65536"),
        (whole(b"[" * 200_000), "not JSON but '[[["),
        (whole(b'{"result": ' + b"9" * 5000 + b"}"), "not JSON"),
        (whole(b"\xff\xfe\xff"), "not JSON"),
        (whole(result(score=10**400)), "a result without"),
        (whole(result(score=float("nan"))), "a result without"),
        (whole(result(contents=None)), "a result without"),
        (whole(result(contents="half \ud83d")), "half ?"),
        (whole(result(contents="São")), "São"),
    ],
)
def test_the_retrievers_client_understands_or_says(
    serve: Callable[..., Raw], answer: bytes, said: str
) -> None:
    told = search(serve(answer).url)
    assert said in told
    assert len(told) < 1000


def test_too_long_an_answer_is_not_read_to_its_end(
    serve: Callable[..., Raw], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retriever_http, "MOST_BYTES", 1 << 20)
    assert "an answer of more than 1 MB" in search(serve(whole(b" " * (2 << 20))).url)
    endless = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    server = serve(endless, *[b"%x\r\n" % 100_000 + b" " * 100_000 + b"\r\n"] * 100)
    assert "an answer of more than 1 MB" in search(server.url)


@pytest.mark.parametrize(
    "url",
    [
        *("http://[::1", "http://h:port", "http://h:99999", "http://h:0", "file:///etc/passwd"),
        *("http://", "//h", "h:80"),
    ],
)
def test_what_is_no_url_is_one_sentence(url: str) -> None:
    with pytest.raises(SdarError, match=r"urls: .* is no URL of a server"):
        HttpRetriever([url])
    with pytest.raises(SdarError, match=r"servers: .* is no URL of a server"):
        VllmHttp(url, 1.0, rank=0)


@pytest.mark.parametrize(
    "url", [f"http://{'a' * 70}.example", "http://a b/", "http://h/ü", "http://ü..de"]
)
def test_a_url_that_no_request_can_hold(url: str) -> None:
    assert "environment.retriever.urls: no search server answered" in search(url, timeout=2.0)


def test_many_servers_are_not_all_told() -> None:
    client = HttpRetriever([f"http://127.0.0.1:9/{n}" for n in range(100)], retries=0)
    with pytest.raises(SdarError, match=r"and 97 more") as caught:
        client.search(["a"], 1)
    assert len(str(caught.value)) < 1000


def test_tokens_come_from_the_environment(
    serve: Callable[..., Raw], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(whole(result()))
    search(server.url)
    monkeypatch.setenv("SDAR_RETRIEVER_TOKEN", "hunter2")
    monkeypatch.setenv("VLLM_API_KEY", "other")
    search(server.url)
    VllmHttp(server.url, 5.0, rank=0).post("/x")
    tokens = [b"Authorization: Bearer hunter2" in r for r in server.requests]
    assert tokens == [False, True, False]
    assert b"Authorization: Bearer other" in server.requests[2]
    monkeypatch.setenv("SDAR_RETRIEVER_TOKEN", "hun\nter2")
    said = search(server.url)
    assert (
        said == "SDAR_RETRIEVER_TOKEN holds characters that no token has; set it anew, or unset it"
    )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\n\r\n", "a redirect to"),
        (whole(b"[" * 200_000), "no connection"),
        (whole(b"<html>"), "no connection"),
        (OK + b"Content-Length: 1000\r\n\r\n{", "no connection"),
        (whole(b" " * (2 << 20)), "an answer of more than 1 MB"),
    ],
)
def test_vllms_client_says_what_is_wrong(
    serve: Callable[..., Raw], monkeypatch: pytest.MonkeyPatch, answer: bytes, said: str
) -> None:
    monkeypatch.setattr(vllm_http, "PAUSES", ())
    monkeypatch.setattr(vllm_http, "MOST_BYTES", 1 << 20)
    with pytest.raises(SdarError, match=f"vLLM server http.*{said}") as caught:
        VllmHttp(serve(answer).url, 5.0, rank=0).post("/x")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "event",
    [
        b"data: [1]\n",
        b"data: " + b"[" * 200_000 + b"\n",
        b"data: " + b"x" * (5 << 20),
        b"data: 1\n",
    ],
)
def test_events_that_are_none(serve: Callable[..., Raw], event: bytes) -> None:
    server = serve(OK + b"Connection: close\r\n\r\n" + event)
    with pytest.raises(SdarError, match="vLLM server http"):
        list(VllmHttp(server.url, 5.0, rank=0).stream("/x", {}))
