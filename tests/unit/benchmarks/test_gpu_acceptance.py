"""The acceptance script's sections: what is found stays, limits hold, and the exit code counts."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import acceptance_agree
import acceptance_world
import gpu_acceptance
import pytest
import torch
from acceptance_record import FILE, Record, read_findings
from acceptance_world import QWEN3, random_model
from step_world import World
from step_world import tasks as made_up_tasks

from sdar.rollout.engines.static import StaticRows

WRITE = "from acceptance_record import Record; r = Record(Path({out!r}), {name!r}); "
BEGIN = "import os, sys, time; from pathlib import Path; sys.path.insert(0, {bench!r}); "


def run(out: Path, bodies: dict[str, str], budget: float = 60, patience: float = 1) -> dict:
    """Sections that run these pieces of Python in place of their own."""
    options = argparse.Namespace(
        sections=list(bodies), out=out, budget=budget, patience=patience, small=True
    )
    bench = str(Path(gpu_acceptance.__file__).parent)

    def command(name: str) -> list[str]:
        code = (BEGIN + WRITE).format(bench=bench, out=str(out), name=name) + bodies[name]
        return [sys.executable, "-c", code]

    return gpu_acceptance.run_all(options, command)


def test_a_section_passes_where_its_checks_do(tmp_path: Path) -> None:
    outcomes = run(
        tmp_path,
        {
            "probe": "r.note('n', 1); r.at_most('a', 0.5, 1.0)",
            "bf16": "r.at_most('a', float('nan'), 1.0); r.equal('b', 2, 2)",
            "speed": "raise SystemExit(3)",
        },
    )
    assert outcomes == {"probe": "passed", "bf16": "failed", "speed": "failed: exit code 3"}
    summary = json.loads((tmp_path / "acceptance.json").read_text())
    assert summary["sections"] == outcomes
    passed = [(f["section"], f["name"], f["passed"]) for f in summary["findings"]]
    assert passed == [
        ("probe", "n", None),
        ("probe", "a", True),
        ("bf16", "a", False),
        ("bf16", "b", True),
    ]
    shown = gpu_acceptance.table(read_findings(tmp_path), outcomes)
    assert "FAILED bf16: a: nan, wanted <= 1" in shown


def test_nothing_is_run_after_a_failure_to_agree(tmp_path: Path) -> None:
    bodies = {"agree": "r.equal('tokens', 1, 2)", "speed": "r.note('ran', 1)"}
    assert run(tmp_path, bodies) == {"agree": "failed", "speed": "not run"}
    assert [finding.section for finding in read_findings(tmp_path)] == ["agree"]


def test_a_section_that_hangs_is_cut_off_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gpu_acceptance.LIMITS, "probe", 2)
    child = "import os,time; open({path!r},'w').write(str(os.getpid())); time.sleep(60)"
    pid_file = tmp_path / "pid"
    code = child.format(path=str(pid_file))
    bodies = {
        "probe": "r.note('n', 1); import subprocess; "
        f"subprocess.run([sys.executable, '-c', {code!r}])",
        "bf16": "r.note('n', 2)",
    }
    start = time.monotonic()
    assert run(tmp_path, bodies) == {"probe": "cut off", "bf16": "passed"}
    assert time.monotonic() - start < 50
    assert [finding.value for finding in read_findings(tmp_path)] == [1, 2]
    gone = Path(f"/proc/{pid_file.read_text()}/stat")
    assert not gone.exists() or gone.read_text().split()[2] == "Z"


def test_a_run_that_is_ended_ends_its_section(tmp_path: Path) -> None:
    pid_file, bench = tmp_path / "pid", Path(gpu_acceptance.__file__).parent
    child = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = f"""
import functools, sys
sys.path.insert(0, {str(bench)!r})
import gpu_acceptance as script
command = lambda name: [sys.executable, "-c", {child!r}]
script.run_all = functools.partial(script.run_all, command=command)
sys.argv = ["gpu_acceptance.py", "probe", "--out", {str(tmp_path / "out")!r}]
script.main()
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    while not (pid_file.is_file() and pid_file.read_text()):
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=30) == 143
    gone = Path(f"/proc/{pid_file.read_text()}/stat")
    assert not gone.exists() or gone.read_text().split()[2] == "Z"


def test_no_section_begins_when_the_budget_is_spent(tmp_path: Path) -> None:
    bodies = {"probe": "time.sleep(1)", "bf16": "r.note('n', 2)"}
    outcomes = run(tmp_path, bodies, budget=gpu_acceptance.LEAST + 0.5)
    assert outcomes == {"probe": "passed", "bf16": "not run"}


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    run(tmp_path, {"probe": "r.note('n', 1)"})
    with (tmp_path / FILE).open("a") as file:
        file.write('{"section": "probe", "na')
    assert [finding.name for finding in read_findings(tmp_path)] == ["n"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["agre", "--out", "x"], "no section agre"),
        (["--out", "x", "--model", "nowhere"], "no Hugging Face folder"),
        (["--out", "x", "--reference", "nowhere"], "no such file"),
        (["--out", "x", "--data", "nowhere"], "no folder with EXPERIMENT/tasks"),
    ],
)
def test_what_cannot_be_run_is_refused(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu_acceptance.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        gpu_acceptance.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_a_section_raises_is_found_and_fails_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stops(record: Any, options: Any) -> None:
        record.note("n", 1)
        raise ValueError("no such kernel")

    monkeypatch.setattr(acceptance_agree, "probe", stops)
    with pytest.raises(ValueError, match="no such kernel"):
        gpu_acceptance.run_section("probe", argparse.Namespace(out=tmp_path))
    first, last = read_findings(tmp_path)
    assert (first.name, last.name) == ("n", "raised")
    assert "in stops" in last.value
    assert "ValueError: no such kernel" in last.value


def test_why_a_step_cannot_be_decoded_in_fixed_shapes_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = random_model(QWEN3)
    assert acceptance_agree.decoded_alone(model) == "no error"

    def fails(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(StaticRows, "_step", fails)
    said = acceptance_agree.decoded_alone(model)
    assert "in fails" in said
    assert "not permitted when stream is capturing" in said


def test_a_case_that_fails_on_a_device_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def played(case: Any, *_: Any) -> dict[str, Any]:
        if case.name == "sdar":
            raise RuntimeError("no such kernel")
        return {"episodes": []}

    monkeypatch.setattr(acceptance_world, "play_and_train", played)
    monkeypatch.setattr(sys, "argv", ["", "--device", "cpu", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="cpu: failed: sdar"):
        acceptance_world.main()
    found = torch.load(tmp_path / "cpu.pt", weights_only=False)
    assert [*found] == [case.name for case in acceptance_world.CASES if case.name != "sdar"]


def test_the_world_of_the_benchmarks_is_played_continuously_too() -> None:
    world, tasks = World(2, 3), dict(enumerate(made_up_tasks(2)))
    world.reset(tasks)
    expected = world.step({0: "look", 1: "look"})
    world.reset(tasks)
    world.send({1: "look"})
    world.send({0: "look"})
    assert world.receive([1]) | world.receive([0]) == expected


@pytest.mark.parametrize("program", [None, "/usr/bin/nvidia-smi"])
def test_a_gpu_that_torch_cannot_use_is_found_out(
    program: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def enough(*_: Any) -> None:
        raise StopIteration

    monkeypatch.setattr(acceptance_agree.shutil, "which", lambda _: program)
    monkeypatch.setattr(acceptance_agree, "target", lambda: "cpu")
    monkeypatch.setattr(acceptance_agree, "random_model", enough)
    with pytest.raises(StopIteration):
        acceptance_agree.probe(Record(tmp_path, "probe"), None)
    (device,) = [each for each in read_findings(tmp_path) if each.name == "device"]
    assert device.passed is (program is None)
