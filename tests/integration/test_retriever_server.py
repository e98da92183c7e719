"""Server and client against each other: the same answers as in process, for all at once."""

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sdar.environments.base import Task
from sdar.environments.searchqa.engine.data import Question
from sdar.environments.searchqa.engine.environment import SearchqaPool
from sdar.environments.searchqa.retrieval.base import MAX_QUERY_CHARACTERS
from sdar.environments.searchqa.retrieval.bm25 import Bm25Retriever
from sdar.environments.searchqa.retrieval.http import QUERIES_A_REQUEST, HttpRetriever
from sdar.environments.searchqa.retrieval.passages import write_passages
from sdar.environments.searchqa.retrieval.server import RetrieverServer
from sdar.errors import SdarError

PASSAGES = [
    (str(n), f'"Title {n}"\nnumber {n} is {"even" if n % 2 == 0 else "odd"} — São {n % 7}')
    for n in range(500)
]
QUERIES = [f"number {n} São" for n in range(600)] + [
    "",
    "?",
    "even odd",
    "x" * 5000,
    "a\x00b\ud83d",
]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Bm25Retriever:
    folder = tmp_path_factory.mktemp("passages")
    write_passages(folder / "passages.jsonl", PASSAGES)
    return Bm25Retriever.open(folder / "passages.jsonl", folder)


@pytest.fixture(scope="module")
def server(local: Bm25Retriever) -> Iterator[RetrieverServer]:
    with RetrieverServer(local, len(local)) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(url: str, body: Any, raw: bool = False) -> tuple[int, Any]:
    """(status, decoded answer) of a POST; `body` as JSON unless raw bytes."""
    data = body if raw else json.dumps(body).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, data=data), timeout=10) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_the_same_answers_as_in_process(local: Bm25Retriever, server: RetrieverServer) -> None:
    assert len(QUERIES) > 2 * QUERIES_A_REQUEST
    client = HttpRetriever([server.url])
    assert client.search(QUERIES, 3) == local.search(QUERIES, 3)
    assert client.search([], 3) == []
    client.close()


def test_episodes_over_a_server_are_those_in_process(
    local: Bm25Retriever, server: RetrieverServer
) -> None:
    questions = {f"q{n}": Question(f"q{n}", f"number {n}?", ("even",), "nq") for n in range(8)}
    tasks = {n: Task(f"q{n}", "test", "one_hop", "", "") for n in range(8)}
    actions = {n: f"<search>number {n}</search>" if n % 3 else "" for n in range(8)}
    seen = []
    for retriever in (local, HttpRetriever([server.url])):
        pool = SearchqaPool(retriever, questions)
        pool.reset(tasks)
        seen.append(pool.step(actions))
        pool.close()
    assert seen[0] == seen[1]
    assert "Title 4" in seen[0][4].text


def test_two_urls_share_the_queries(local: Bm25Retriever, server: RetrieverServer) -> None:
    client = HttpRetriever([server.url, f"{server.url}/retrieve/"])
    for top_k in (1, 5):
        assert client.search(QUERIES, top_k) == local.search(QUERIES, top_k)
    client.close()


def test_many_clients_at_once(local: Bm25Retriever, server: RetrieverServer) -> None:
    def work(number: int) -> bool:
        client = HttpRetriever([server.url])
        some = QUERIES[number * 20 : number * 20 + 120]
        same = all(client.search(some, 3) == local.search(some, 3) for _ in range(3))
        client.close()
        return same

    with ThreadPoolExecutor(12) as threads:
        assert all(threads.map(work, range(12)))


def test_both_request_forms(local: Bm25Retriever, server: RetrieverServer) -> None:
    url = f"{server.url}/retrieve"
    expected = [[passage.id for passage in each] for each in local.search(["number 4"], 2)]
    for body in (
        {"queries": ["number 4"], "topk": 2, "return_scores": True},
        {"query": ["number 4"], "topk": 2, "return_scores": True},
        {"query": "number 4", "topk": 2, "return_scores": True},
    ):
        status, answer = ask(url, body)
        assert status == 200
        assert [[item["document"]["id"] for item in e] for e in answer["result"]] == expected
        assert {*answer["result"][0][0]} == {"document", "score"}
    status, answer = ask(url, {"queries": ["number 4"]})
    assert len(answer["result"][0]) == 3
    assert {*answer["result"][0][0]} == {"id", "contents"}


def test_health(server: RetrieverServer) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{server.url}/health", timeout=10) as response:
        assert json.loads(response.read()) == {"status": "ok", "passages": 500}


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/retrieve", b"{not json", 400, "not JSON"),
        ("/retrieve", b"", 400, "not JSON"),
        ("/retrieve", b"[" * 100_000, 400, "not JSON"),
        ("/retrieve", b"\xff\xfe", 400, "not JSON"),
        ("/retrieve", b"[1]", 422, "JSON object"),
        ("/retrieve", b"{}", 422, "`queries`"),
        ("/retrieve", b'{"queries": [1]}', 422, "list of texts"),
        ("/retrieve", b'{"query": {}}', 422, "list of texts"),
        ("/retrieve", b'{"query": "x", "topk": 0}', 422, "`topk`"),
        ("/retrieve", b'{"query": "x", "topk": true}', 422, "`topk`"),
        ("/retrieve", b'{"query": "x", "topk": 1e9}', 422, "`topk`"),
        ("/retrieve", b'{"query": "x", "return_scores": 1}', 422, "`return_scores`"),
        ("/elsewhere", b"{}", 404, "unknown path"),
    ],
)
def test_wrong_requests_are_told_as_json(
    server: RetrieverServer, path: str, body: bytes, status: int, message: str
) -> None:
    answered, said = ask(server.url + path, body, raw=True)
    assert answered == status
    assert message in said["error"]


def test_too_much_is_refused(server: RetrieverServer) -> None:
    status, said = ask(f"{server.url}/retrieve", {"queries": ["x"] * 10_001})
    assert (status, "at most 10000" in said["error"]) == (413, True)


def test_a_megabyte_of_query(local: Bm25Retriever, server: RetrieverServer) -> None:
    long = "number 4 " + "even " * 200_000
    status, answer = ask(f"{server.url}/retrieve", {"query": long, "topk": 3})
    assert status == 200
    expected = local.search([long[:MAX_QUERY_CHARACTERS]], 3)[0]
    assert [item["id"] for item in answer["result"][0]] == [passage.id for passage in expected]


def test_a_taken_port_is_told(local: Bm25Retriever, server: RetrieverServer) -> None:
    port = server.server_address[1]
    with pytest.raises(SdarError, match=rf"--port {port}: cannot listen on 127\.0\.0\.1"):
        RetrieverServer(local, 1, port=port)


def start(folder: Path, *options: str) -> tuple["subprocess.Popen[str]", str]:
    """`sdar serve-retriever` in a process of its own, and the URL it names."""
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "sdar.cli", "serve-retriever", "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    return process, next(word for word in line.split() if word.startswith("http://"))


def test_the_command_serves_until_ctrl_c(tmp_path: Path, local: Bm25Retriever) -> None:
    write_passages(tmp_path / "passages.jsonl", PASSAGES)
    process, url = start(tmp_path, "--passages", str(tmp_path / "passages.jsonl"))
    try:
        client = HttpRetriever([url])
        assert client.search(QUERIES[:50], 3) == local.search(QUERIES[:50], 3)
        client.close()
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, said) == (0, "ended\n")
    assert list((tmp_path / "cache" / "sdar" / "index").iterdir())


def test_the_command_serves_an_experiments_passages(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("experiment: qa\nenvironment: {name: searchqa, retriever: {top_k: 2}}\n")
    tasks = tmp_path / "data" / "qa" / "tasks"
    write_passages(tasks / "passages.jsonl", PASSAGES)
    process, url = start(tmp_path, "--config", str(config), "--root", str(tmp_path))
    try:
        status, answer = ask(f"{url}/retrieve", {"query": "number 4"})
        assert (status, len(answer["result"][0])) == (200, 2)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 143
    assert list((tasks / "index").iterdir())
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give --passages FILE, or --config"),
        (("--passages", "none.jsonl"), "none.jsonl cannot be read"),
        (("--config", "config/config.yaml"), "environment.name is alfworld"),
    ],
)
def test_the_command_tells_what_is_missing(
    repository: Path, options: tuple[str, ...], message: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sdar.cli", "serve-retriever", "--port", "0", *options],
        capture_output=True,
        text=True,
        cwd=repository,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
