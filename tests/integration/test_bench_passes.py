"""`sdar bench passes` and `sdar bench growth` in their smallest size write all that they should."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from growth_speed import PASSES, SMALL
from passes_speed import NAMES
from passes_steps import PAIRS, missing_key


def bench(repository: Path, name: str, output: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "sdar.cli", "bench", name, "--small", "--json", str(output)]
    done = subprocess.run(
        [*command, *options], cwd=repository, capture_output=True, encoding="utf-8", check=False,
        timeout=1500, env=os.environ | {"TMPDIR": str(output.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    written: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    assert written["bench"] == name
    assert written["machine"]["name"]
    assert written["command"].startswith(f"sdar bench {name} --small")
    return written


@pytest.mark.slow
def test_every_ratio_is_written_or_says_why_not(repository: Path, tmp_path: Path) -> None:
    written = bench(repository, "passes", tmp_path / "passes.json", "--trl", str(tmp_path))
    assert list(written["ratios"]) == list(NAMES)
    for name, value in written["ratios"].items():
        if value is None:
            assert written["reasons"][name]
        else:
            assert 0 < value["min"] <= value["median"] <= value["max"]
            assert name not in written["reasons"]
        assert set(written["check"][name]) == {"better", "tolerance"}
    absent = {name for name, value in written["ratios"].items() if value is None}
    # What needs a finished experiment, TRL, a commit that a shallow clone lacks, or a switch.
    absent -= {"dag_noop_seconds", "grpo_step_over_trl"}
    absent -= {"grpo_step_over_before", "sdar_step_over_before"}
    for name in absent:
        switches = filter(None, map(missing_key, PAIRS[name].contenders))
        assert written["reasons"][name] == f"the configuration has no key {next(switches)}"
    assert "make bench-trl" in written["reasons"]["grpo_step_over_trl"]
    work = written["work"]
    assert work["sdar"]["taught"] == work["sdar"]["samples"] > 0
    assert work["grpo"]["tokens"] == work["sdar"]["tokens"]  # the same episodes
    for name in set(work) & {"grpo before", "sdar before"}:
        assert work[name]["tokens"] == work["sdar"]["tokens"]
    assert str(tmp_path) not in worktrees(repository)


def worktrees(repository: Path) -> str:
    listed = subprocess.run(
        ["git", "worktree", "list"], cwd=repository, capture_output=True, encoding="utf-8",
        check=False,
    )  # fmt: skip
    return listed.stdout


@pytest.mark.slow
def test_growth_is_written_and_drawn(repository: Path, tmp_path: Path) -> None:
    written = bench(repository, "growth", tmp_path / "growth.json")
    assert {name: [p[name] for p in points] for name, points in written["curves"].items()} == {
        name: list(values) for name, values in SMALL.items()
    }
    for points in written["curves"].values():
        for point in points:
            assert set(point["seconds"]) == set(PASSES)
            assert all(each["plain"]["cpu"]["median"] > 0 for each in point["seconds"].values())
    few, more = written["curves"]["group"]
    assert few["samples"] * SMALL["group"][1] == more["samples"] * SMALL["group"][0]
    assert "<svg" in (tmp_path / "growth.svg").read_text(encoding="utf-8")
