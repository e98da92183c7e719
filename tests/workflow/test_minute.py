"""The whole pipeline on the minute-sized configuration, and Ctrl-C in each of its stages."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import first_update
import pytest
import yaml
from pipeline_runner import copy_workflow, run, snakemake

from sdar.config import load_config
from sdar.methods.declarations import METHODS

CONFIG = "config/experiments/minute.yaml"
TRAINED = [name for name, method in METHODS.items() if method.trained]
STAGES = {
    ("tasks",): "sdar.environments.tasks",
    ("demonstrations",): "sdar.training.demonstrations",
    ("warm-start",): "sdar.training.warm_start",
    ("train", "--method", "sdar", "--seed", "0"): "sdar.training.trainer",
    ("evaluate", "--method", "sdar", "--seed", "0"): "sdar.evaluation.evaluate",
    ("compare",): "sdar.report.results",
    ("report",): "sdar.report.results",
}


@pytest.fixture(scope="module")
def finished(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the pipeline ran to its end."""
    folder = copy_workflow(repository, tmp_path_factory.mktemp("pipeline"))
    done = snakemake(folder, "--configfile", CONFIG, "--", "all")
    assert done.returncode == 0, done.stdout[-5000:]
    return folder


def test_everything_promised_is_there(finished: Path) -> None:
    results = finished / "results" / "minute"
    comparison = json.loads((results / "comparison.json").read_text())
    assert comparison["experiment"] == "minute"
    table = (results / "comparison.md").read_text()
    assert "valid_seen" in table
    assert "valid_unseen" in table
    assert (results / "episodes.html").stat().st_size > 1000
    names = {path.stem for path in (results / "figures").glob("*.svg")}
    assert {"learning_curves", "gate_curves"} <= names
    for method in TRAINED:
        folder = finished / "runs" / "minute" / method / "seed-0"
        steps = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
        assert [step["step"] for step in steps] == list(range(len(steps)))
        assert len(steps) == 2
        for name in ("config.yaml", "provenance.json", "policy/config.json"):
            assert (folder / name).is_file(), f"{method}: no {name}"
    for name in ("tasks", "warm_start", "train/sdar-0", "evaluate/skill_prompt-0", "compare"):
        assert (finished / "logs" / "minute" / f"{name}.log").is_file()


def test_every_method_stands_in_the_comparison_with_its_interval(finished: Path) -> None:
    comparison = json.loads((finished / "results" / "minute" / "comparison.json").read_text())
    for panel in ("valid_seen", "valid_unseen"):
        results = {r["method"]: r["rate"] for r in comparison["results"] if r["panel"] == panel}
        assert set(results) == set(METHODS)
        for rate in results.values():
            assert 0 <= rate["low"] <= rate["rate"] <= rate["high"] <= 1
            assert rate["tasks"] == 6
        versus = {v["method"] for v in comparison["versus"] if v["panel"] == panel}
        assert versus == set(TRAINED) - {"grpo"}


def test_the_sweep_shares_the_warm_start_and_ends_in_a_heat_map(finished: Path) -> None:
    warm = (finished / "runs" / "minute" / "warm_start" / "policy" / "config.json").stat()
    done = snakemake(finished, "--configfile", CONFIG, "--", "sweep")
    assert done.returncode == 0, done.stdout[-5000:]
    after = (finished / "runs" / "minute" / "warm_start" / "policy" / "config.json").stat()
    assert after.st_mtime == warm.st_mtime
    results = finished / "results" / "minute" / "sweep"
    values = json.loads((results / "sweep.json").read_text())
    names = [variant["name"] for variant in values["variants"]]
    assert names == [
        "grpo",
        "gap-beta5-lambda0.1-type",
        "gap-beta5-lambda0.1-random",
        "none-lambda0.1",
    ]
    for name in names:
        folder = finished / "runs" / "minute" / "sweep" / name / "seed-0"
        resolved = load_config(folder / "config.yaml")
        assert resolved.skills.retrieval == ("random" if name.endswith("random") else "type")
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    for name in ("heatmap.svg", "heatmap.png"):
        assert (results / name).stat().st_size > 5000
    # At lambda = 0 the sweep's baseline is GRPO itself: the same run, byte for byte.
    runs = finished / "runs" / "minute"
    grpo = runs / "grpo" / "seed-0" / "metrics.jsonl"
    assert (runs / "sweep" / "grpo" / "seed-0" / "metrics.jsonl").read_bytes() == grpo.read_bytes()
    again = snakemake(finished, "--configfile", CONFIG, "--", "sweep")
    assert "Nothing to be done" in again.stdout
    target = results / "report.html"
    done = snakemake(finished, "--configfile", CONFIG, "--report", str(target), "--", "sweep")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "heatmap.svg" in target.read_text()


def test_a_second_run_has_nothing_to_do(finished: Path) -> None:
    done = snakemake(finished, "--configfile", CONFIG, "--", "all")
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout


def test_two_ranks_on_this_machine_train_what_one_process_does(
    finished: Path, tmp_path: Path
) -> None:
    folder, run_folder = tmp_path / "project", Path("runs") / "minute" / "sdar" / "seed-0"
    shutil.copytree(finished, folder, symlinks=True)
    short = first_update.with_one_update(yaml.safe_load((folder / CONFIG).read_text()))
    runs = {}
    for processes in (1, 2):
        shutil.rmtree(folder / run_folder)
        experiment = folder / f"ranks-{processes}.yaml"
        experiment.write_text(yaml.safe_dump(short | {"execution": {"processes": processes}}))
        target = str(run_folder / "policy")
        done = snakemake(folder, "--configfile", str(experiment), "--", target)
        assert done.returncode == 0, done.stdout[-5000:]
        runs[processes] = shutil.copytree(folder / run_folder, tmp_path / str(processes))
        # A rank refuses to train among more or fewer than are configured.
        (computed,) = json.loads((runs[processes] / "provenance.json").read_text())["computed_with"]
        assert computed["execution.processes"] == processes
    first_update.assert_same_first_update(runs[2], runs[1])


def test_the_report_is_one_file(finished: Path) -> None:
    target = finished / "results" / "minute" / "report.html"
    done = snakemake(finished, "--configfile", CONFIG, "--report", str(target))
    assert done.returncode == 0, done.stdout[-3000:]
    html = target.read_text()
    for name in ("comparison.html", "learning_curves.svg", "episodes.html"):
        assert name in html


def start(folder: Path, stage: tuple[str, ...], error: Path) -> subprocess.Popen[bytes]:
    """A stage in a process of its own that tells on stderr what it has imported."""
    with error.open("wb") as stderr:
        return subprocess.Popen(
            [sys.executable, "-X", "importtime", "-m", "sdar.cli", *stage, "--config", CONFIG],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )


def interrupt(process: subprocess.Popen[bytes], error: Path) -> str:
    """Ctrl-C, as a terminal sends it: to the whole group. Returns the last words."""
    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=60)
    lines = error.read_text(errors="replace").splitlines()
    return "\n".join(line for line in lines if not line.startswith("import time:"))


def add_other_runs(source: Path, target: Path) -> None:
    """What a comparison needs beside the one run made here."""
    for path in source.glob("*/seed-*"):
        goal = target / path.relative_to(source)
        if not goal.exists():
            shutil.copytree(path, goal)


def test_ctrl_c_in_each_stage_is_clean_and_resumable(
    repository: Path, tmp_path: Path, finished: Path
) -> None:
    """Each stage is stopped as it begins and again in its midst, then run to its end."""
    folder = copy_workflow(repository, tmp_path)
    for stage, module in STAGES.items():
        if stage == ("compare",):
            add_other_runs(finished / "runs" / "minute", folder / "runs" / "minute")
        error = tmp_path / "stderr"
        process = start(folder, stage, error)
        imported = re.compile(rf"\| +{re.escape(module)}$", flags=re.MULTILINE)
        deadline = time.monotonic() + 120
        while not imported.search(error.read_text(errors="replace")):
            assert process.poll() is None, error.read_text(errors="replace")[-3000:]
            assert time.monotonic() < deadline, f"{module} is never imported"
            time.sleep(0.02)
        words = interrupt(process, error)
        assert process.returncode == 130, (stage, words[-3000:])
        assert "To go on: sdar" in words, (stage, words)
        assert "Traceback" not in words, (stage, words)

        process = start(folder, stage, error)
        try:
            process.wait(timeout=6)
        except subprocess.TimeoutExpired:
            words = interrupt(process, error)
            # 0: it was over before the signal came
            assert process.returncode in (0, 130), (stage, words[-3000:])
            assert "Traceback" not in words, (stage, words)
        done = run(folder, "sdar", *stage, "--config", CONFIG)
        assert done.returncode == 0, (stage, done.stdout[-3000:])
    resumed = folder / "runs" / "minute" / "sdar" / "seed-0" / "metrics.jsonl"
    assert (
        resumed.read_bytes()
        == (finished / "runs" / "minute" / "sdar" / "seed-0" / "metrics.jsonl").read_bytes()
    )
