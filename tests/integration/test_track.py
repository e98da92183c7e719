"""`sdar track`, the parent run, and a store that is deleted under a living mirror."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdar.config import Layout, load_config, parse_config
from sdar.errors import SdarError
from sdar.files.whole import read_json
from sdar.tracking import RunRecorder, store
from sdar.tracking.track import track

pytest.importorskip("mlflow")
pytestmark = pytest.mark.slow
CONFIG = parse_config({"experiment": "fake"})


def record(root: Path, name: str, error: type[BaseException] | None = None) -> Path:
    layout = Layout(root, "fake")
    kind: Any = name if name in ("tasks", "compare", "report") else "train"
    folder = layout.runs / name
    try:
        with RunRecorder(folder, config=CONFIG, layout=layout, kind=kind, name=name) as run:
            run.metrics(0, {"train/success": 0.5})
            if error:
                raise error
    except KeyboardInterrupt:
        pass
    return folder


def shown(root: Path) -> dict[str, Any]:
    """What MLflow says of each run by name: all that a person sees, and when it ended. Asked by a
    process of its own, which has opened no earlier store in this place."""
    command = [sys.executable, __file__, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _shown(root: Path) -> dict[str, Any]:
    where = store.address(CONFIG, Layout(root, "fake"))
    client = store.connect(where)
    experiment = client.get_experiment_by_name("fake").experiment_id
    runs: dict[str, Any] = {}
    for run in client.search_runs([experiment]):
        history = {
            key: [
                (point.step, point.value)
                for point in client.get_metric_history(run.info.run_id, key)
            ]
            for key in run.data.metrics
        }
        files = [file.path for file in client.list_artifacts(run.info.run_id)]
        traces = client.search_traces(locations=[experiment], run_id=run.info.run_id)
        ended = run.info.end_time if run.info.run_name != "experiment fake" else None
        assert run.info.run_name not in runs
        runs[run.info.run_name] = (run.info.status, ended, history, files, len(traces))
    return runs


def select(root: Path, query: str) -> list[tuple[Any, ...]]:
    """Rows of the store's tables: quicker than MLflow."""
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as database:
        return database.execute(query).fetchall()


def statuses(root: Path) -> dict[str, str]:
    return dict(select(root, "SELECT name, status FROM runs"))


def test_the_parent_ends_when_everything_is_done(tmp_path: Path) -> None:
    record(tmp_path, "sdar/seed-0")
    assert statuses(tmp_path)["experiment fake"] == "RUNNING", "no comparison yet"
    record(tmp_path, "compare")
    record(tmp_path, "report")
    assert statuses(tmp_path)["experiment fake"] == "FINISHED"
    record(tmp_path, "grpo/seed-0", KeyboardInterrupt)
    assert statuses(tmp_path)["experiment fake"] == "RUNNING", "a run was killed"
    record(tmp_path, "grpo/seed-0")
    record(tmp_path, "report")
    assert statuses(tmp_path)["experiment fake"] == "FINISHED"


@pytest.fixture
def fake(tmp_path: Path) -> Callable[..., "subprocess.Popen[str]"]:
    script = str(Path(__file__).with_name("mlflow_fake_run.py"))

    def start(*arguments: object, uri: str = "") -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, script, str(tmp_path), *map(str, arguments)],
            env=os.environ | {"FAKE_URI": uri},
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def sdar_track(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "sdar.cli", "track", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_store_that_was_down_is_completed_and_twice_is_once(
    tmp_path: Path, fake: Callable[..., "subprocess.Popen[str]"]
) -> None:
    run = fake(0, uri="http://me:hunter2@127.0.0.1:9")
    _, said = run.communicate(timeout=120)
    folder = Layout(tmp_path, "fake").run("sdar", 0)
    assert f"`sdar track {folder}`" in said

    still = sdar_track(folder)
    assert (still.returncode, "MLFLOW_TRACKING_URI" in still.stderr) == (2, True)
    (tmp_path / "mine.yaml").write_text("experiment: fake\ntracking: {uri: 'http://127.0.0.1:9'}\n")
    still = sdar_track(folder, "--config", tmp_path / "mine.yaml")
    assert (still.returncode, "no server answers" in still.stderr) == (2, True)

    (tmp_path / "mine.yaml").write_text("experiment: fake\n")
    seen = []
    for where in (folder, tmp_path / "runs/fake", tmp_path / "results/fake"):
        done = sdar_track(where, "--config", tmp_path / "mine.yaml")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{folder}: sdar/seed-0 is in MLflow\n"
        seen.append(shown(tmp_path))
    assert seen[0] == seen[1] == seen[2]
    status, _, history, files, traces = seen[0]["sdar/seed-0"]
    assert (status, traces) == ("FINISHED", 5)
    assert [step for step, _ in history["train/m07"]] == list(range(30))
    assert {"config.yaml", "provenance.json"} <= {*files}


def test_a_deleted_store_is_made_again_from_the_folder(
    tmp_path: Path, fake: Callable[..., "subprocess.Popen[str]"]
) -> None:
    assert fake(0).wait() == 0
    before = shown(tmp_path)
    (tmp_path / "mlflow.db").unlink()
    shutil.rmtree(tmp_path / "mlartifacts")
    assert sdar_track(tmp_path / "runs/fake").returncode == 0
    assert shown(tmp_path) == before


def test_a_killed_run_is_said_to_be_killed_at_the_same_time_each_time(
    tmp_path: Path, fake: Callable[..., "subprocess.Popen[str]"]
) -> None:
    assert fake(0, 7, uri="http://127.0.0.1:9").wait() == -signal.SIGKILL
    folder = Layout(tmp_path, "fake").run("sdar", 0)
    config = parse_config({"experiment": "fake"})
    deadline = time.monotonic() + 60
    said: list[str] = []
    while not said or "under way" in said[-1]:  # its mirror still waits for the server
        assert time.monotonic() < deadline
        track(folder, config, said.append)
        time.sleep(0.5)
    first = shown(tmp_path)
    assert first["sdar/seed-0"][0] == "KILLED"
    track(folder, config, said.append)
    assert shown(tmp_path) == first


def test_a_living_mirror_opens_a_deleted_store_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(tmp_path, "fake")
    folder = layout.run("sdar", 0)
    driver = (
        "import os, sys, time; import sdar.tracking.mirror as mirror; mirror.SYNC_SECONDS = 0.5; "
        "sys.argv[0] = mirror.__file__; sys.exit(mirror.main())"
    )
    real = subprocess.Popen

    def quick(command: list[str], **options: Any) -> Any:
        if command[1:3] == ["-m", "sdar.tracking.mirror"]:
            command = [command[0], "-c", driver, *command[3:]]
        return real(command, **options)

    monkeypatch.setattr(subprocess, "Popen", quick)

    def arrived(step: int) -> bool:
        if not (tmp_path / "mlflow.db").exists():
            return False
        with contextlib.suppress(sqlite3.Error):
            return (step,) in select(tmp_path, "SELECT step FROM metrics")
        return False

    def wait_for(step: int) -> None:
        deadline = time.monotonic() + 120
        while not arrived(step):
            assert time.monotonic() < deadline, (folder / "mlflow.log").read_text()
            time.sleep(0.2)

    with RunRecorder(folder, config=CONFIG, layout=layout, kind="train", name="sdar/seed-0") as run:
        run.metrics(0, {"train/success": 0.5})
        wait_for(0)
        (tmp_path / "mlflow.db").unlink()
        run.metrics(1, {"train/success": 0.5})
        wait_for(1)
    status, _, history, _, _ = shown(tmp_path)["sdar/seed-0"]
    assert status == "FINISHED"
    assert [step for step, _ in history["train/success"]] == [0, 1]


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"status": "RUNNING"}'])
def test_what_is_no_recorded_run_is_told(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tracking.json").write_text(content)
    with pytest.raises(SdarError, match=r"tracking\.json"):
        track(tmp_path, None, print)


def test_the_record_names_no_other_store(tmp_path: Path) -> None:
    folder = record(tmp_path, "sdar/seed-0")
    recorded = read_json(folder / "tracking.json")["store"]
    assert recorded == store.address(CONFIG, Layout(tmp_path, "fake"))
    assert json.dumps(recorded)
    assert not (folder / "config.yaml").exists() or load_config(folder / "config.yaml")


if __name__ == "__main__":
    print(json.dumps(_shown(Path(sys.argv[1]))))
