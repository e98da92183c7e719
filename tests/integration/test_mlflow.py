"""MLflow follows the run's folder: through a kill, side by side, and when it is down."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sdar.config import Layout, parse_config
from sdar.errors import SdarError
from sdar.files import lines
from sdar.files.whole import read_json
from sdar.tracking import RunRecorder, mirror, store

pytest.importorskip("mlflow")
FAKE = Path(__file__).with_name("mlflow_fake_run.py")
METRICS, STEPS = 60, 30


def fake(root: Path, *arguments: object, uri: str = "") -> "subprocess.Popen[str]":
    command = [sys.executable, str(FAKE), str(root), *map(str, arguments)]
    source = str(Path(lines.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": source, "FAKE_URI": uri}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def client(root: Path) -> Any:
    return store.connect(store.address(parse_config({"experiment": "fake"}), Layout(root, "fake")))


def runs(root: Path) -> dict[str, Any]:
    tracked = client(root)
    experiment = tracked.get_experiment_by_name("fake")
    return {run.info.run_name: run for run in tracked.search_runs([experiment.experiment_id])}


def test_a_killed_and_continued_run_is_the_same_run(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert fake(whole, 0).wait() == 0
    # Killed in step 17, with MLflow already ahead of the checkpoint (10) it continues from.
    killed = fake(broken, 0, 17, 1.0)
    assert killed.wait() == -signal.SIGKILL
    folder = Layout(broken, "fake").run("sdar", 0)
    deadline = time.monotonic() + 120
    while "KILLED" not in {run.info.status for run in _found(broken)}:
        assert time.monotonic() < deadline, (folder / "mlflow.log").read_text()
        time.sleep(1)
    before = runs(broken)["sdar/seed-0"]
    assert len(client(broken).get_metric_history(before.info.run_id, "train/m00")) == 17
    assert fake(broken, 10).wait() == 0

    same = "runs/fake/sdar/seed-0/metrics.jsonl"
    assert (broken / same).read_bytes() == (whole / same).read_bytes()
    run = runs(broken)["sdar/seed-0"]
    assert (run.info.run_id, run.info.status) == (before.info.run_id, "FINISHED")
    spec = read_json(folder / "tracking.json")
    assert run.info.start_time == int(1000 * spec["started"]) < before.info.end_time
    assert before.info.end_time < run.info.end_time == int(1000 * spec["written"])
    assert len(run.data.metrics) == METRICS + 2
    truth = lines.read(broken / same)
    for key in run.data.metrics:
        history = client(broken).get_metric_history(run.info.run_id, key)
        assert [point.step for point in history] == list(range(STEPS))
        if key in truth[0]:
            assert [point.value for point in history] == [row[key] for row in truth]
    traces = client(broken).search_traces(locations=[run.info.experiment_id])
    steps = sorted(trace.info.tags.get("step", "") for trace in traces)
    assert steps == ["", "", "0", "10", "20"]
    spans = [span.name for span in traces[0].data.spans]
    assert spans == ["episode", "turn 1: look", "turn 2: look"]
    assert traces[0].data.spans[1].attributes["gate_mean"] == 0.75


def _found(root: Path) -> list[Any]:
    return list(runs(root).values()) if (root / "mlflow.db").exists() else []


def test_runs_that_start_together_share_one_parent(tmp_path: Path) -> None:
    config, layout = parse_config({"experiment": "fake"}), Layout(tmp_path, "fake")
    data = layout.tasks
    data.mkdir(parents=True)
    (data / "tasks.jsonl").write_text('{"split": "train"}\n')

    def one(seed: int) -> None:
        folder = layout.run("grpo", seed)
        name = f"grpo/seed-{seed}"
        options: dict[str, Any] = {"config": config, "layout": layout, "kind": "train"}
        with RunRecorder(folder, name=name, **options) as run:
            policy = folder / "policy"
            policy.mkdir()
            (policy / "config.json").write_text('{"model_type": "qwen3"}')
            (policy / "model.safetensors").write_bytes(b"weights")
            run.metrics(0, {"train/success": 0.5})
            run.policy(policy, step=0)
            (folder / "curve.svg").write_text("<svg/>")
            run.artifact(folder / "curve.svg", "figures")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(one, range(3)))
    by_name = runs(tmp_path)
    assert sorted(by_name) == ["experiment fake", *(f"grpo/seed-{seed}" for seed in range(3))]
    parent = by_name.pop("experiment fake").info.run_id
    for seed in range(3):
        run = by_name[f"grpo/seed-{seed}"]
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert (run.data.tags["method"], run.data.tags["seed"]) == ("grpo", str(seed))
        assert run.data.params["training.group_size"] == "8"
        (used,) = run.inputs.dataset_inputs
        assert json.loads(used.dataset.profile) == {"train": 1}
        (model,) = run.outputs.model_outputs
        logged = client(tmp_path).get_logged_model(model.model_id)
        assert (logged.name, logged.status.value) == (f"grpo_seed-{seed}", "READY")
        names = [file.path for file in client(tmp_path).list_artifacts(run.info.run_id, "figures")]
        assert names == ["figures/curve.svg"]


def test_a_dead_server_is_one_line_and_the_run_goes_on(tmp_path: Path) -> None:
    run = fake(tmp_path, 0, uri="http://127.0.0.1:9")
    _, said = run.communicate(timeout=120)
    assert run.returncode == 0
    (line,) = said.splitlines()
    assert "MLflow at http://127.0.0.1:9 cannot be written" in line
    folder = Layout(tmp_path, "fake").run("sdar", 0)
    assert len(lines.read(folder / "metrics.jsonl")) == STEPS

    # Later, with a store that answers, the folder alone is enough.
    spec = read_json(folder / "tracking.json")
    spec["store"] = store.address(parse_config({"experiment": "fake"}), Layout(tmp_path, "fake"))
    (folder / "tracking.json").write_text(json.dumps(spec))
    assert mirror.main([str(folder)]) == 0
    history = client(tmp_path).get_metric_history(
        runs(tmp_path)["sdar/seed-0"].info.run_id, "train/m07"
    )
    assert [point.step for point in history] == list(range(STEPS))
    assert mirror.main([str(folder)]) == 0  # and again changes nothing
    assert len(runs(tmp_path)) == 2


def test_a_run_that_is_done_again_replaces_the_earlier_one(tmp_path: Path) -> None:
    assert fake(tmp_path, 0).wait() == 0
    assert fake(tmp_path, 0).wait() == 0
    by_name = runs(tmp_path)
    assert sorted(by_name) == ["experiment fake", "sdar/seed-0", "sdar/seed-0 (replaced)"]
    assert by_name["sdar/seed-0 (replaced)"].info.status == "FINISHED"
    steps = client(tmp_path).get_metric_history(by_name["sdar/seed-0"].info.run_id, "train/m00")
    assert len(steps) == STEPS


def test_store_and_parent_are_made_once(tmp_path: Path) -> None:
    where = store.address(parse_config({"experiment": "fake"}), Layout(tmp_path, "fake"))
    first = store.parent_run(store.connect(where), where)
    assert store.parent_run(store.connect(where), where) == first
    assert sorted(runs(tmp_path)) == ["experiment fake"]
    experiment = client(tmp_path).get_experiment_by_name("fake")
    assert experiment.artifact_location == (tmp_path / "mlartifacts" / "fake").as_uri()
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_server_that_is_down_is_an_error_at_once(tmp_path: Path) -> None:
    down = parse_config({"experiment": "fake", "tracking": {"uri": "http://127.0.0.1:9"}})
    where = store.address(down, Layout(tmp_path, "fake"))
    with pytest.raises(SdarError, match=r"no server answers at 127\.0\.0\.1:9") as error:
        store.connect(where)
    assert "cannot be written" in store.unreachable(where, error.value)
    assert not any(tmp_path.iterdir())


def test_a_mirror_that_can_never_succeed_ends_with_its_job(tmp_path: Path) -> None:
    """It starts itself again where the store was lost: once the job is over, one more time."""
    assert fake(tmp_path, 0).wait() == 0
    folder = Layout(tmp_path, "fake").run("sdar", 0)
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").mkdir()
    command = [sys.executable, "-m", "sdar.tracking.mirror", "--follow", str(folder)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=240)
    assert done.returncode == 1
