"""The guard that `sdar serve-policy` puts before vLLM's server, before a small one that streams."""

import json
import os
import resource
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

SERVER = """
import asyncio, socket, sys
from sdar.web import guarded
guarded.SECONDS |= {"head": 60.0, "answer": 0.2}
guarded.guard_uvicorn()
import uvicorn
from sdar.web.bodies import BodyLimit

async def application(scope, receive, send):
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(10 if scope["path"] == "/slow" else 1):
        await send({"type": "http.response.body", "body": b"%d " % len(body), "more_body": True})
        await asyncio.sleep(0.1)
    await send({"type": "http.response.body", "body": b"", "more_body": False})

listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
config = uvicorn.Config(BodyLimit(application), log_level="critical", lifespan="off")
uvicorn.Server(config).run(sockets=[listening])
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """URL and process id, with 256 file descriptors."""
    (tmp_path / "server.py").write_text(SERVER)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "server.py")],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)),
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}", process.pid
    finally:
        process.kill()
        process.wait()


def post(url: str, body: bytes) -> tuple[int, bytes]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, data=body), timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_streams_take_their_time_and_bodies_have_a_limit(server: tuple[str, int]) -> None:
    url, _ = server
    assert post(f"{url}/slow", b"x" * 70_000) == (200, b"70000 " * 10)
    status, said = post(url, b"x" * (17 << 20))
    assert (status, json.loads(said)) == (413, {"error": "expected a body of at most 16 MB"})


@pytest.mark.slow
def test_half_open_connections_and_unfinished_bodies_silence_nobody(
    server: tuple[str, int],
) -> None:
    import socket

    url, process = server
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    before = psutil.Process(process).memory_info().rss
    with ExitStack() as stack:
        for number in range(300):
            connection = stack.enter_context(socket.create_connection(address, 20))
            connection.sendall((head % (60 << 20))[: 20 if number % 2 else None])
            assert number % 50 or post(url, b"x")[0] == 200
        for _ in range(12):
            connection = stack.enter_context(socket.create_connection(address, 20))
            try:
                connection.sendall(head % (15 << 20) + b"x" * (14 << 20))
            except ConnectionError:
                continue
        assert post(url, b"x")[0] == 200
        assert psutil.Process(process).memory_info().rss - before < 160 << 20
