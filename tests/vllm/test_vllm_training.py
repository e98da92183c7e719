"""Training and evaluation through the vLLM engine."""

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import scripted
import trainer_world
import yaml

from sdar.config import ExperimentConfig, Layout, parse_config
from sdar.environments.tasks import make_tasks
from sdar.evaluation.evaluate import evaluate
from sdar.policy.reproducible import make_reproducible
from sdar.training.demonstrations import make_demonstrations
from sdar.training.parts import Parts, make_accelerator
from sdar.training.trainer import train, train_with
from sdar.training.warm_start import warm_start


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


def test_every_stage_of_search_qa_with_vllm(tmp_path: Path, repository: Path) -> None:
    """The real environment and the pipeline's own stages, as small as they can be."""
    values = yaml.safe_load((repository / "config/experiments/minute-searchqa.yaml").read_text())
    values["policy"]["tiny"] |= {"heads": 2, "kv_heads": 2}  # heads of a size that vLLM knows
    values["warm_start"] |= {"updates": 10, "dagger": {"rounds": 0}}
    values["rollout"] = {"engine": "vllm"}
    values["training"]["distillation"] = {"scored_by": "engine"}
    values["tracking"] = {"enabled": False}
    config = parse_config(values)
    layout = Layout(tmp_path, config.experiment)
    make_tasks(config.environment, config.evaluation.panels, layout)
    make_demonstrations(config, layout)
    warm_start(config, layout)

    train(config, layout, "sdar", 0)
    rows = metrics_of(layout.run("sdar", 0))
    assert len(rows) == 2
    assert all(row["policy/engine_difference"] < 1e-4 for row in rows)
    assert all(math.isfinite(row["gap/std"]) and row["gap/std"] > 0 for row in rows)

    evaluate(config, layout, "sdar", 0)
    episodes = pl.read_parquet(layout.evaluation("sdar", 0) / "episodes.parquet")
    assert episodes["task_id"].n_unique() == episodes.height == 6
