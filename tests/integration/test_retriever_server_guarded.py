"""The search server against clients that are slow, silent, huge, many, or no clients at all."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from sdar.environments.searchqa.retrieval.base import Passage
from sdar.environments.searchqa.retrieval.passages import write_passages
from sdar.environments.searchqa.retrieval.server import RetrieverServer
from sdar.web import bodies, guarded

ASK = b'{"query": "a"}'
WHOLE = b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"


class Scripted:
    """A retriever whose passages are as long as wanted; a search waits while `hold` is set."""

    def __init__(self, characters: int = 3) -> None:
        self.contents = "x" * characters
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Event()

    def search(self, queries: list[str], top_k: int) -> list[list[Passage]]:
        self.begun.set()
        assert self.go.wait(60)
        return [[Passage("0", self.contents, 1.0)] * top_k for _ in queries]

    def close(self) -> None: ...


@pytest.fixture
def serve() -> Iterator[Callable[..., RetrieverServer]]:
    with ExitStack() as stack:

        def start(retriever: Any) -> RetrieverServer:
            server = stack.enter_context(RetrieverServer(retriever, 1))
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return server

        yield start


def connect(server: RetrieverServer) -> socket.socket:
    return socket.create_connection(server.server_address, 30)


def answer_of(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the next answer, by its Content-Length."""
    with connection.makefile("rb") as file:
        status = int(file.readline().split()[1])
        headers = dict(line.lower().split(b": ", 1) for line in iter(file.readline, b"\r\n"))
        assert headers[b"content-type"].strip() == b"application/json"
        return status, json.loads(file.read(int(headers[b"content-length"])))


def ends(connection: socket.socket) -> bool:
    """Whether the server closes it, within the half minute of `connect`."""
    try:
        while connection.recv(1 << 20):
            pass
    except ConnectionError:
        pass
    return True


def command(folder: Path, *options: str, descriptors: int = 256) -> tuple[Any, str, str]:
    """`sdar serve-retriever` with few file descriptors: process, URL and the line that names it."""
    write_passages(folder / "passages.jsonl", [("0", '"Title"\ntext')])

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "sdar.cli", "serve-retriever", "--port", "0"),
            *("--passages", str(folder / "passages.jsonl"), *options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONUNBUFFERED": "1"},
        preexec_fn=few,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    return process, next(word for word in line.split() if word.startswith("http://")), line


def healthy(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}/health", timeout=8) as response:
        return bool(json.loads(response.read())["status"] == "ok")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begun", "descriptors"),
    [
        (b"", 256),
        (b"POST /retrieve HTTP/1.1\r\nHost: x\r\n", 256),
        (b"POST /retrieve HTTP/1.1\r\nHost: x\r\n", 40),
        (b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{", 256),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", 256),
    ],
    ids=["silent", "head", "hardly any descriptors", "body", "idle"],
)
def test_more_clients_that_drip_than_descriptors_silence_nobody(
    tmp_path: Path, begun: bytes, descriptors: int
) -> None:
    process, url, _ = command(tmp_path, descriptors=descriptors)
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    with ExitStack() as stack:
        stack.callback(process.kill)
        connections = []
        for _ in range(300):
            connection = stack.enter_context(socket.create_connection(address, 20))
            connection.sendall(begun)
            connections.append(connection)
        for _ in range(3):
            for connection in connections:
                try:
                    connection.sendall(begun and b"X")
                except ConnectionError:
                    continue
            assert healthy(url)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in said) == (143, False)


@pytest.mark.slow
def test_unfinished_bodies_take_no_memory(tmp_path: Path) -> None:
    process, url, _ = command(tmp_path)
    size, sent = 60 << 20, 59 << 20
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    head = b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
    with ExitStack() as stack:
        stack.callback(process.kill)
        before = psutil.Process(process.pid).memory_info().rss
        for _ in range(8):
            connection = stack.enter_context(socket.create_connection(address, 60))
            connection.sendall(head)
            try:
                connection.sendall(b"x" * sent)
            except ConnectionError:
                continue
        assert healthy(url)
        assert psutil.Process(process.pid).memory_info().rss - before < 100 << 20


def test_what_is_allowed_is_bounded_in_sum_too(
    serve: Callable[..., RetrieverServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "HELD_BYTES", 1 << 20)
    server = serve(Scripted())
    with ExitStack() as stack:
        begun = b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
        first = stack.enter_context(connect(server))
        first.sendall(begun + b" " * 900_000)
        while server.held[0] < 900_000:
            time.sleep(0.01)
        second = stack.enter_context(connect(server))
        second.sendall(begun + b" " * 900_000)
        assert answer_of(second)[0] == 503
        small = stack.enter_context(connect(server))
        small.sendall(WHOLE % (len(ASK), ASK))
        assert answer_of(small)[0] == 200, "small requests are let in all the same"
        first.sendall(b" " * (100_000 - len(ASK)) + ASK)
        assert answer_of(first)[0] == 200
        second.sendall(b" " * 100_000)
        second.sendall(WHOLE % (len(ASK), ASK))
        assert answer_of(second)[0] == 200, "the refused body is passed over, the next request read"
    while server.held[0]:
        time.sleep(0.01)


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"POST /retr",
        b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
        b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n{",
        WHOLE % (len(ASK), ASK),
        WHOLE % (len(ASK), ASK) + b"POST /ret",
    ],
    ids=["silent", "head", "body", "too long a body", "idle", "second head"],
)
def test_whoever_keeps_it_waiting_is_dropped(
    serve: Callable[..., RetrieverServer], monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(guarded, "SECONDS", dict.fromkeys(guarded.SECONDS, 0.3))
    server = serve(Scripted())
    with connect(server) as connection:
        connection.sendall(begun)
        assert ends(connection)


def drip(connection: socket.socket) -> None:
    for number in range(3000):
        connection.sendall(b"X-%d: y\r\n" % number)
        time.sleep(0.02)


def test_dripping_is_waiting(
    serve: Callable[..., RetrieverServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded, "SECONDS", dict.fromkeys(guarded.SECONDS, 0.5))
    server = serve(Scripted())
    with connect(server) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        with pytest.raises(ConnectionError):
            drip(connection)


def test_who_does_not_read_the_answer_is_dropped(
    serve: Callable[..., RetrieverServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded, "SECONDS", guarded.SECONDS | {"answer": 0.5})
    server = serve(Scripted(characters=300_000))
    body = json.dumps({"query": "a", "topk": 100}).encode()
    with connect(server) as connection:
        connection.sendall(WHOLE % (len(body), body))
        while not server.held[0]:
            time.sleep(0.01)
        while server.held[0]:
            time.sleep(0.01)
        assert ends(connection)


def test_a_search_may_take_longer_than_a_client(
    serve: Callable[..., RetrieverServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded, "SECONDS", dict.fromkeys(guarded.SECONDS, 0.2))
    retriever = Scripted()
    retriever.go.clear()
    server = serve(retriever)
    with connect(server) as connection:
        connection.sendall(WHOLE % (len(ASK), ASK))
        assert retriever.begun.wait(30)
        time.sleep(0.6)
        retriever.go.set()
        assert answer_of(connection)[0] == 200


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 40_000, 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"PUT /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405),
        (b"GET /retrieve HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"POST /retrieve HTTP/1.1\r\nHost: x\r\n\r\n", 411),
        (
            b"POST /retrieve HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"e\r\n" + ASK + b"\r\n0\r\n\r\n",
            411,
        ),
        (b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", 413),
    ],
)
def test_what_is_no_request_is_told_as_json(
    serve: Callable[..., RetrieverServer], request_bytes: bytes, status: int
) -> None:
    server = serve(Scripted())
    with connect(server) as connection:
        connection.sendall(request_bytes)
        answered, said = answer_of(connection)
        assert (answered, [*said]) == (status, ["error"])
    assert healthy(server.url)


def test_too_many_passages_are_refused(serve: Callable[..., RetrieverServer]) -> None:
    body = json.dumps({"queries": ["a"] * 1000, "topk": 1000}).encode()
    with connect(serve(Scripted())) as connection:
        connection.sendall(WHOLE % (len(body), body))
        status, said = answer_of(connection)
    assert (status, "at most 100000 passages" in said["error"]) == (413, True)


def test_a_failing_search_is_told_and_the_server_goes_on(
    serve: Callable[..., RetrieverServer], capfd: pytest.CaptureFixture[str]
) -> None:
    retriever = Scripted()
    server = serve(retriever)
    with connect(server) as connection:
        retriever.contents = object()  # type: ignore[assignment]
        connection.sendall(WHOLE % (len(ASK), ASK))
        status, said = answer_of(connection)
        assert (status, "TypeError" in said["error"]) == (500, True)
        retriever.contents = "x"
        connection.sendall(WHOLE % (len(ASK), ASK))
        assert answer_of(connection)[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_ctrl_c_waits_for_what_is_being_answered(tmp_path: Path) -> None:
    process, url, line = command(tmp_path)
    assert "whoever" not in line
    try:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(address, 20) as silent:
            assert healthy(url)
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=30)
            assert ends(silent)
    finally:
        process.kill()
    assert (process.returncode, said) == (0, "ended\n")


def test_it_says_when_others_can_reach_it(tmp_path: Path) -> None:
    process, url, _ = command(tmp_path, "--host", "0.0.0.0")
    process.send_signal(signal.SIGTERM)
    said = process.stdout.read()
    assert process.wait(30) == 143
    assert f"http://{socket.gethostname()}:" in url
    assert "--host 0.0.0.0: whoever reaches this machine can search" in said


def test_without_its_extra_the_command_names_it(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['uvicorn'] = None; sys.argv = ['sdar', 'serve-retriever', "
        "'--passages', 'x']; from sdar.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "uvicorn is missing; pip install 'sdar[serve]'" in done.stderr
