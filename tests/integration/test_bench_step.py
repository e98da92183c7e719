"""`sdar bench step` runs the trainer's own step on made-up work, and writes what it measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def test_a_step_of_the_tiny_shape(repository: Path, tmp_path: Path) -> None:
    output = tmp_path / "step.json"
    options = "--shape tiny --tasks 1 --group 2 --turns 2 --prompt 200 --skill 60"
    options += " --response 12 --micro-batch 4"
    done = subprocess.run(
        [sys.executable, "-m", "sdar.cli", "bench", "step", *options.split(), "--steps", "1",
         "--output", str(output)],
        cwd=repository, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = json.loads(output.read_text())
    assert written["machine"]["name"]
    result = written["shapes"]["tiny"]
    work, phases = result["work"], result["phases"]
    assert work["samples"] == 4
    assert work["response_tokens_mean"] == 12
    assert work["prompt_tokens_mean"] == pytest.approx(200, abs=16)
    taught = work["teacher_prompt_tokens_mean"] - work["prompt_tokens_mean"]
    assert taught == pytest.approx(60, abs=16)
    assert list(phases) == ["environment", "generation", "old", "teacher", "reference", "update"]
    assert all(phase["seconds"] > 0 for phase in phases.values())
    assert 0 < result["teacher_share_of_step"] < 1
    for name in ("rollout", "scoring", "update"):
        # Few layers, the last of them shortened: the estimate is of deep models.
        assert 0.9 < result["memory_gib"][name]["ratio"] < 2.0
