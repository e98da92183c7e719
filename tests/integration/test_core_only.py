"""From tasks to evaluation with the core alone: Search-QA on real questions, searched over HTTP.

No other environment runs without an extra: ALFWorld plays on TextWorld, WebShop compares texts with
rapidfuzz, TextWorldExpress is a package, and a search in process needs the extra searchqa.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from core_only import __file__ as CORE_ONLY
from pretrained_world import save_model
from real_worlds import data_of

from sdar.environments.searchqa.retrieval.memory import MemoryRetriever

pytestmark = pytest.mark.slow
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("core") / "data"
    data_of("searchqa", folder)
    return folder


@pytest.fixture(scope="module")
def url(questions: Path) -> Iterator[str]:
    """A server that answers from the passages beside the questions."""
    lines = (questions / "passages.jsonl").read_text().splitlines()
    found = MemoryRetriever([(row["id"], row["contents"]) for row in map(json.loads, lines)])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answers = [
                [
                    {"document": {"id": one.id, "contents": one.contents}, "score": one.score}
                    for one in passages
                ]
                for passages in found.search(asked["queries"], asked["topk"])
            ]
            body = json.dumps({"result": answers}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture(scope="module")
def sdar(questions: Path, url: str) -> Command:
    """A command of an experiment that is small, in a process that finds the core alone."""
    root = questions.parent
    config = root / "config.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "experiment": "core",
                "methods": ["sdar"],
                "seeds": [0],
                "environment": {
                    "name": "searchqa",
                    "max_turns": 2,
                    "data": str(questions),
                    "retriever": {"kind": "http", "urls": [url], "top_k": 2},
                },
                "policy": {
                    "model": str(save_model(root / "model")),
                    "max_prompt_tokens": 1000,
                    "max_teacher_prompt_tokens": 1600,
                    "max_response_tokens": 128,
                },
                "warm_start": {
                    "enabled": True,
                    "updates": 2,
                    "warmup": 1,
                    "batch": 4,
                    "demonstrations": {"episodes": 4, "openings": 1},
                    "dagger": {"rounds": 1, "episodes": 2, "updates": 2},
                },
                "training": {
                    "steps": 1,
                    "tasks_per_step": 2,
                    "group_size": 2,
                    "minibatch": 4,
                    "micro_batch": 4,
                },
                "evaluation": {"panels": ["test"], "recorded_episodes": 1},
            }
        )
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        options = ["--config", str(config), "--root", str(root)]
        return subprocess.run(
            [sys.executable, CORE_ONLY, *words, *options],
            capture_output=True,
            text=True,
            check=False,
            cwd=root,
        )

    return run


def test_every_stage_up_to_the_evaluation_runs_and_the_next_names_its_extra(
    sdar: Command, questions: Path
) -> None:
    run = ("--method", "sdar", "--seed", "0")
    for stage in (["tasks"], ["demonstrations"], ["warm-start"], ["train", *run]):
        done = sdar(*stage)
        assert done.returncode == 0, done.stderr
    done = sdar("evaluate", *run)
    assert done.returncode == 0, done.stderr
    folder = questions.parent / "runs" / "core" / "sdar" / "seed-0"
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0]
    (panel,) = json.loads((folder / "evaluation" / "summary.json").read_text())["panels"]
    assert panel["success"]["tasks"] == 3
    done = sdar("compare")
    assert done.returncode == 2
    assert "polars is not installed: `pip install 'sdar[report]'` brings it" in done.stderr
    assert "Traceback" not in done.stderr
