"""A password in `tracking.uri` stands in the user's own file and nowhere else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdar.config import Layout, load_config, parse_config
from sdar.config.generate import resolved_yaml
from sdar.errors import SdarError
from sdar.files.whole import read_json
from sdar.tracking import store
from sdar.tracking.ui import serve_ui

SECRET = "hunter2"
DEAD = f"http://me:{SECRET}@127.0.0.1:9"
URIS = [
    DEAD,
    f"http://{SECRET}@127.0.0.1:9",
    f"http://127.0.0.1:9/?token={SECRET}",
    f"postgresql://me:{SECRET}@127.0.0.1:9/db",
    f"mysql+pymysql://me:{SECRET}@127.0.0.1:9/db",
    f"http://me:{SECRET}@127.0.0.1:not-a-port",
    f"nonsense://me:{SECRET}@127.0.0.1",
]


def everything_in(folder: Path) -> str:
    parts = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return b"\n".join(parts).decode("utf-8", "replace")


@pytest.mark.slow
@pytest.mark.parametrize("uri", URIS)
def test_a_run_keeps_and_says_no_password(tmp_path: Path, uri: str) -> None:
    pytest.importorskip("mlflow")
    fake = Path(__file__).with_name("mlflow_fake_run.py")
    done = subprocess.run(
        [sys.executable, str(fake), str(tmp_path), "0"],
        env=os.environ | {"FAKE_URI": uri, "WANDB_API_KEY": SECRET, "HF_TOKEN": SECRET},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    (warning,) = done.stderr.splitlines()
    folder = Layout(tmp_path, "fake").run("sdar", 0)
    assert "cannot be written" in warning
    assert f"`sdar track {folder}`" in warning
    assert SECRET not in done.stdout + done.stderr
    assert SECRET not in everything_in(tmp_path)
    assert "***" in read_json(folder / "tracking.json")["store"]["uri"]
    assert "***" in load_config(folder / "config.yaml").tracking.uri


def sdar(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sdar.cli", *arguments],
        cwd=cwd,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"tracking: {{uri: 'http://me:{SECRET}@host'}}", 0),
        (f"tracking: {{uri: ['http://me:{SECRET}@host']}}", 2),
        (f"tracking: {{uri: 'http://me:{SECRET}@host' oops}}", 2),
        (
            f"tracking: {{uri: 'http://me:{SECRET}@a-very-long-name.of-a.host.example/' , , oops}}",
            2,
        ),
        (f"tracking: {{uri: 'http://me:x{'y' * 50}{SECRET}@host' oops}}", 2),
        (f"tracking: {{uri: &a !x 'http://me:{SECRET}@host'}}", 2),
        (f"http://me:{SECRET}@host: 3", 2),
        (f"tracking: http://me:{SECRET}@{'h' * 100}", 2),
        (f"experiment: {{a: [{{b: 'http://me:{SECRET}@{'h' * 100}'}}]}}", 2),
        (f"tracking: {{url: 'http://me:{SECRET}@host'}}", 2),
        (f"rollout: {{engine: vllm, vllm: {{servers: ['http://me:{SECRET}@host']}}}}", 2),
        (
            "environment: {name: searchqa, retriever: {kind: http, "
            f"urls: ['http://host/retrieve?token={SECRET}']}}}}",
            2,
        ),
    ],
)
@pytest.mark.parametrize("command", ["show", "check"])
def test_commands_show_no_password(tmp_path: Path, text: str, code: int, command: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"experiment: mine\n{text}\n")
    done = sdar("config", command, "--config", "mine.yaml", cwd=tmp_path)
    assert done.returncode == code
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if command == "show" and code == 0:
        assert "uri: http://me:***@host" in done.stdout


def test_what_jobs_get_has_no_password_but_means_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(store.URI_VARIABLE, raising=False)
    config = parse_config({"tracking": {"uri": DEAD}})
    assert SECRET not in resolved_yaml(config) + repr(config)
    redacted = "http://me:***@127.0.0.1:9"
    assert f"uri: {redacted}" in resolved_yaml(config)
    with pytest.raises(SdarError, match=r"password .*MLFLOW_TRACKING_URI.*sdar track FOLDER"):
        store.whole_uri(redacted)
    store.hand_down(config.tracking.uri)
    assert store.whole_uri(redacted) == DEAD
    with pytest.raises(SdarError, match="not recorded"):
        store.whole_uri("http://other:***@127.0.0.1:9")


def test_the_pages_are_named_without_password(tmp_path: Path) -> None:
    said: list[str] = []
    serve_ui(parse_config({"tracking": {"uri": DEAD}}), Layout(tmp_path, "x"), say=said.append)
    assert "***" in said[0]
    assert SECRET not in said[0]
