"""Training and evaluation through the vLLM engine."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import scripted
import trainer_world

from sdar.config import ExperimentConfig, Layout, parse_config
from sdar.training.run import Parts, make_accelerator, make_reproducible
from sdar.training.trainer import train_with


def configuration(engine: str, **distillation: Any) -> ExperimentConfig:
    values = trainer_world.configuration(steps=3).model_dump(mode="json")
    values["rollout"] = {"engine": engine, "batch": 16, "vllm": {"tolerance": 1e-3}}
    values["training"]["distillation"] |= distillation
    return parse_config(values)


def run(root: Path, config: ExperimentConfig) -> Path:
    made = trainer_world.parts()
    parts = Parts(
        model=scripted.policy(head=32),
        tokenizer=made.tokenizer,
        pool=made.pool,
        tasks=made.tasks,
        skills=made.skills,
        inputs=made.inputs,
    )
    make_reproducible(1)
    layout = Layout(root, config.experiment)
    train_with(parts, config, layout, "sdar", 0, make_accelerator(config))
    return layout.run("sdar", 0)


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_trains_on_vllms_rollouts(tmp_path: Path) -> None:
    folder = run(tmp_path, configuration("vllm"))
    rows = metrics_of(folder)
    assert [row["step"] for row in rows] == [0, 1, 2]
    for row in rows:
        numbers = [value for value in row.values() if isinstance(value, int | float)]
        assert all(math.isfinite(value) for value in numbers)
        assert row["policy/engine_difference"] < 1e-4
        assert row["update/gradient_norm"] > 0
    assert any(row["train/success"] > 0 for row in rows)
    assert (folder / "policy" / "model.safetensors").is_file()


def test_the_teacher_scored_by_the_engine_is_the_trainers(tmp_path: Path) -> None:
    by_trainer = metrics_of(run(tmp_path / "trainer", configuration("vllm")))
    by_engine = metrics_of(run(tmp_path / "engine", configuration("vllm", scored_by="engine")))
    for name in ("gap/mean", "gap/std", "gap/q05", "gap/q95", "gate/mean", "loss/distillation"):
        assert by_engine[0][name] == pytest.approx(by_trainer[0][name], abs=1e-4), name
        assert by_engine[2][name] == pytest.approx(by_trainer[2][name], abs=1e-2), name
