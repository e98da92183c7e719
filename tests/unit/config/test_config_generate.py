"""The generated files agree with the models, and the experiments with the schema and the paper."""

import json
import os
from pathlib import Path

import jsonschema
import pytest
import yaml

from sdar.config import ExperimentConfig, load_config, parse_config
from sdar.config.generate import default_yaml, generated_files, resolved_yaml, write_if_changed

EXPERIMENTS = sorted(
    (Path(__file__).resolve().parents[3] / "config" / "experiments").glob("*.yaml")
)

EXTENDING_THE_DEFAULT = {"sweep", "methods"}
"""They share the default experiment's games, warm start and runs."""


def test_generated_files_are_in_step(repository: Path) -> None:
    for path, text in generated_files(repository).items():
        assert path.read_text(encoding="utf-8") == text, (
            f"{path.name} no longer agrees with src/sdar/config/models.py: run `sdar config write`"
        )


def test_default_yaml_is_the_default() -> None:
    values = yaml.safe_load(default_yaml())
    assert parse_config(values) == ExperimentConfig()
    assert list(values) == list(ExperimentConfig.model_fields)


def test_resolved_yaml_loses_nothing(tmp_path: Path) -> None:
    config = parse_config({"training": {"learning_rate": 1e-6}, "seeds": [4], "methods": ["opsd"]})
    path = tmp_path / "resolved.yaml"
    path.write_text(resolved_yaml(config))
    assert load_config(path) == config


def test_schema_refuses_what_the_models_refuse(repository: Path) -> None:
    schema = json.loads((repository / "config" / "schema.json").read_text())
    jsonschema.validate(yaml.safe_load(default_yaml()), schema)
    with pytest.raises(jsonschema.ValidationError, match="step"):
        jsonschema.validate({"training": {"step": 3}}, schema)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_are_valid_and_named_after_their_file(repository: Path, path: Path) -> None:
    schema = json.loads((repository / "config" / "schema.json").read_text())
    jsonschema.validate(yaml.safe_load(path.read_text()), schema)
    usual = ExperimentConfig().experiment
    expected = usual if path.stem in EXTENDING_THE_DEFAULT else path.stem
    assert load_config(path).experiment == expected


@pytest.mark.parametrize("name", ["qwen2.5-3b", "qwen2.5-7b", "qwen3-1.7b"])
def test_paper_experiments_have_the_papers_hyperparameters(repository: Path, name: str) -> None:
    """arXiv 2605.15155, ALFWorld column of the hyperparameter table."""
    config = load_config(repository / "config" / "experiments" / f"alfworld-{name}.yaml")
    training, policy = config.training, config.policy
    assert (training.tasks_per_step, training.group_size, training.steps) == (16, 8, 150)
    assert (policy.max_prompt_tokens, policy.max_response_tokens) == (2048, 512)
    assert (training.minibatch, training.learning_rate) == (256, 1e-6)
    assert training.kl_coefficient == training.distillation.coefficient == 0.01
    assert training.distillation.beta == 5.0
    assert (training.clip_low, training.clip_high, training.dual_clip) == (0.2, 0.2, 3.0)
    assert (training.entropy_coefficient, training.gradient_clip) == (0.001, 1.0)
    assert (config.environment.max_turns, config.environment.history) == (50, 2)
    assert config.evaluation.temperature == 0.4
    assert set(config.evaluation.panels) == {"valid_seen", "valid_unseen"}
    assert config.rollout.temperature == 1.0
    assert policy.dtype == "bfloat16"
    assert {"grpo", "opsd", "grpo_opsd", "skill_grpo", "skill_sd", "rlsd", "sdar"} <= set(
        config.methods
    )


@pytest.mark.parametrize("size", ["qwen2.5-3b", "qwen2.5-7b", "qwen3-1.7b"])
@pytest.mark.parametrize("environment", ["alfworld", "webshop", "searchqa"])
def test_the_papers_experiments_have_twins_with_warm_start(
    repository: Path, environment: str, size: str
) -> None:
    folder = repository / "config" / "experiments"
    plain, warm = (
        {key: value for key, value, _ in load_config(folder / f"{name}.yaml").leaves()}
        for name in (f"{environment}-{size}", f"{environment}-{size}-warm")
    )
    assert plain.keys() == warm.keys()
    differing = {key: (plain[key], warm[key]) for key in plain if plain[key] != warm[key]}
    assert differing == {
        "experiment": (f"{environment}-{size}", f"{environment}-{size}-warm"),
        "warm_start.enabled": (False, True),
    }


def test_dvc_stages_cover_every_run(repository: Path) -> None:
    """dvc.yaml spells out methods and seeds, which its templates cannot: keep the two in step."""
    stages = yaml.safe_load((repository / "dvc.yaml").read_text())["stages"]
    config = ExperimentConfig()
    runs = {f"{method}/seed-{seed}" for method in config.methods for seed in config.seeds}
    trained = {f"runs/{config.experiment}/{run}/policy" for run in runs}
    assert trained <= set(stages["train"]["outs"])
    assert trained <= set(stages["evaluate"]["deps"])
    evaluated = runs | {"warm_start/seed-0", "skill_prompt/seed-0"}
    outs = {f"runs/{config.experiment}/{run}/evaluation" for run in evaluated}
    assert outs <= set(stages["evaluate"]["outs"])
    assert outs <= set(stages["report"]["deps"])


@pytest.mark.parametrize("name", ["minute", "methods"])
def test_every_method_runs_in_the_pipeline(repository: Path, name: str) -> None:
    """A method that is declared is trained, evaluated and compared by CI."""
    from sdar.methods.declarations import METHODS
    from sdar.methods.roles import untrained_beside

    config = load_config(repository / "config" / "experiments" / f"{name}.yaml")
    assert {*config.methods, *untrained_beside(config.methods)} == set(METHODS)


def test_an_equal_file_keeps_its_time(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "config.yaml"
    assert write_if_changed(path, "a: 1\n")
    os.utime(path, (1, 1))
    assert not write_if_changed(path, "a: 1\n")
    assert path.stat().st_mtime == 1
    assert write_if_changed(path, "a: 2\n")
    assert path.read_text() == "a: 2\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["config.yaml"]
