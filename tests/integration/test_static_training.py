"""Whole training steps with `rollout.static_decode`, as a GPU takes them but not captured."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import trainer_world

from sdar.rollout.engines.static import StaticRows


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("schedule", ["turns", "continuous"])
@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_steps_are_those_of_the_usual_decoding(
    schedule: str,
    lora: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs, steps = [], 0

    def counted(self: StaticRows, count: int, run: Any = StaticRows.run) -> None:
        nonlocal steps
        steps += count
        run(self, count)

    monkeypatch.setattr(StaticRows, "run", counted)
    for static in (False, True):
        assert static or not steps
        rollout = {"schedule": schedule, "static_decode": static}
        with caplog.at_level(logging.INFO, logger="sdar.rollout"):
            folder = trainer_world.run(
                tmp_path / str(static), values={"rollout": rollout}, steps=2, lora=lora
            )
        runs.append(metrics(folder))
    assert steps > 20
    assert "not sampled on" not in caplog.text
    for usual, found in zip(*runs, strict=True):
        assert found.keys() == usual.keys()
        for name, value in usual.items():
            if isinstance(value, float) and not name.startswith(("time", "memory", "throughput")):
                assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
