"""The run's own files: exact bytes, survival of kills and full disks, and silence about MLflow."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdar.config import ExperimentConfig, Layout, parse_config
from sdar.environments.packages import NAMES
from sdar.errors import SdarError
from sdar.files import lines
from sdar.files.whole import read_json
from sdar.tracking import RunRecorder, recorder, store


def offline(**tracking: object) -> ExperimentConfig:
    return parse_config({"experiment": "fake", "tracking": {"enabled": False, **tracking}})


def record(root: Path, config: ExperimentConfig | None = None) -> RunRecorder:
    config, layout = config or offline(), Layout(root, "fake")
    folder = layout.run("sdar", 0)
    return RunRecorder(folder, config=config, layout=layout, kind="train", name="sdar/seed-0")


def test_a_line_is_exact_and_sorted(tmp_path: Path) -> None:
    with record(tmp_path) as run:
        run.metrics(3, {"b": np.float64(0.1), "a": 1 / 3, "count": np.int64(7)})
    expected = b'{"step": 3, "a": 0.3333333333333333, "b": 0.1, "count": 7}\n'
    assert run.metrics_path.read_bytes() == expected


def test_not_finite_becomes_null_and_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="sdar.tracking"), record(tmp_path) as run:
        run.metrics(0, {"a": float("nan"), "b": float("inf"), "c": 1.0})
        run.metrics(1, {"a": np.float32("nan")})
    assert lines.read(run.metrics_path)[0] == {"step": 0, "a": None, "b": None, "c": 1.0}
    assert run.not_finite == 3
    assert len(caplog.messages) == 2
    assert caplog.messages[1].startswith("3 values were not finite")


def test_truncate_drops_later_steps_and_the_half_written_line(tmp_path: Path) -> None:
    with record(tmp_path) as run:
        for step in range(4):
            run.metrics(step, {"a": step / 7})
            run.timings(step, {"rollout_s": 1.0})
        whole = run.metrics_path.read_bytes()
        with run.metrics_path.open("ab") as file:
            file.write(b'{"step": 4, "a')
        run.truncate(2)
        assert [row["step"] for row in lines.read(run.timings_path)] == [0, 1]
        for step in range(2, 4):
            run.metrics(step, {"a": step / 7})
    assert run.metrics_path.read_bytes() == whole


def test_damage_in_the_middle_is_told_not_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0}\n{"step": \n{"step": 2}\n')
    with pytest.raises(SdarError, match=r"metrics\.jsonl: line 2 is not a JSON object"):
        lines.truncate(path, 1)
    assert path.read_bytes().count(b"\n") == 3


def test_a_full_disk_leaves_the_earlier_lines_whole(tmp_path: Path) -> None:
    # A limit on the size of files fails a write half-way, as a full disk does.
    script = """
import resource, sys
from pathlib import Path
from typing import Any
from sdar.files import lines
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
path = Path(sys.argv[1])
for step in range(100):
    lines.append(path, lines.encode(step, {"a": 0.123456789})[0])
"""
    path = tmp_path / "metrics.jsonl"
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "SdarError" in done.stderr
    assert "free some space" in done.stderr
    data = path.read_bytes()
    assert data.endswith(b"\n")
    assert [json.loads(line)["step"] for line in data.splitlines()] == [0, 1, 2]


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with record(tmp_path, offline(enabled=True)) as run:
        run.truncate(0)
        run.metrics(0, {"a": 1.0})
        run.episodes([{"task": "x"}], step=0)
    assert not any(tmp_path.rglob("*"))


def test_tracking_off_writes_only_the_records(tmp_path: Path) -> None:
    with record(tmp_path) as run:
        run.metrics(0, {"a": 1.0})
        run.artifact(tmp_path / "x")
    assert [path.name for path in run.folder.iterdir()] == ["metrics.jsonl"]


def test_mlflow_not_installed_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recorder.importlib.util, "find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING), record(tmp_path, offline(enabled=True)) as run:
        run.metrics(0, {"a": 1.0})
    assert len(caplog.messages) == 1
    assert "MLflow is not installed" in caplog.messages[0]
    assert len(lines.read(run.metrics_path)) == 1


def test_the_folder_knows_whether_it_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_start_mirror", lambda folder: None)
    on = offline(enabled=True)

    def attempt(config: ExperimentConfig, error: type[BaseException] | None = None) -> str:
        run = record(tmp_path, config)
        try:
            with run:
                if error:
                    raise error
        except BaseException:
            pass
        return str(read_json(run.folder / "tracking.json")["attempt"])

    first = attempt(on, KeyboardInterrupt)
    spec = read_json(tmp_path / "runs/fake/sdar/seed-0/tracking.json")
    assert (spec["status"], spec["tags"]["method"], spec["tags"]["seed"]) == (
        "KILLED",
        "sdar",
        "0",
    )
    assert attempt(on, ValueError) == first
    assert attempt(on) == first
    assert attempt(on) != first  # it had finished: this is a new run
    changed = on.model_copy(
        update={"training": on.training.model_copy(update={"learning_rate": 1e-4})}
    )
    second = attempt(on, ValueError)
    assert attempt(changed) != second


def test_relative_sqlite_lies_under_the_root(tmp_path: Path) -> None:
    where = store.address(parse_config({"experiment": "fake"}), Layout(tmp_path, "fake"))
    assert where["uri"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert where["artifacts"] == (tmp_path / "mlartifacts").as_uri()
    config = parse_config({"tracking": {"uri": "sqlite:////data/m.db", "experiment": "mine"}})
    where = store.address(config, Layout(tmp_path, "fake"))
    assert (where["uri"], where["experiment"]) == ("sqlite:////data/m.db", "mine")


@pytest.mark.parametrize("name", NAMES)
def test_mlflow_lists_the_success_on_the_panels_of_the_experiment(
    name: str, tmp_path: Path
) -> None:
    config = parse_config({"environment": {"name": name}})
    made: dict[str, str] = {}

    class Client:
        def get_experiment_by_name(self, name: str) -> None:
            return None

        def create_experiment(self, name: str, **options: Any) -> str:
            made.update(options["tags"])
            return "1"

    store.experiment_id(Client(), store.address(config, Layout(tmp_path, "fake")))
    columns = json.loads(made[f"mlflow.sharedViewState.{store.VIEW}"])["selectedColumns"]
    shown = [f"metrics.`{panel}/success`" for panel in config.evaluation.panels]
    assert columns[5:] == [
        *(f"metrics.`{metric}`" for metric in ("train/success", "gap/mean", "gate/mean")),
        *shown,
    ]


def test_importing_tracking_imports_neither_mlflow_nor_torch() -> None:
    script = (
        "import sys, sdar.tracking, sdar.tracking.ui; print({'mlflow', 'torch'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
