"""Configurations that must be refused, each with its key's path and the remedy."""

from pathlib import Path

import pytest
import yaml

from sdar.config import ExperimentConfig, load_config, parse_config
from sdar.config.alfworld import ALFWORLD_TASK_TYPES
from sdar.config.checks import check_files
from sdar.errors import SdarError


def nested(key: str, value: object) -> dict[str, object]:
    """`a.b: value` as a mapping."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("training.step", 3, r"training\.step: unknown key \(did you mean steps\?\)"),
        ("environment.games.test", 3, r"environment\.games\.test: unknown key"),
        ("learning_rate", 1e-4, r"learning_rate: unknown key"),
        ("training.steps", "many", r"training\.steps: .*integer.*found 'many'"),
        ("training.steps", 0, r"training\.steps: .*greater than 0"),
        ("seeds", 3, r"seeds: .*tuple.*found 3"),
        ("environment.habit", 1.5, r"environment\.habit: .*less than or equal to 1"),
        ("methods", ["grpo", "ppo"], r"methods\.1: .*found 'ppo'"),
        ("methods", ["grpo", "grpo"], r"methods lists a value twice"),
        ("methods", [], r"methods: .*at least 1"),
        ("experiment", "../elsewhere", r"experiment: .*pattern"),
        ("training.micro_batch", 512, r"training: micro_batch \(512\) is larger than minibatch"),
        ("training.group_size", 1, r"training: group_size 1 .*normalize_by_std to false"),
        ("policy.max_prompt_tokens", 1020, r"beyond the model's context of 1024 tokens: lower"),
        ("policy.max_teacher_prompt_tokens", 1020, r"max_teacher_prompt_tokens.*beyond"),
        ("policy.context", 100, r"beyond the model's context of 100 tokens"),
        ("policy.tiny.heads", 3, r"policy\.tiny: heads \(3\) must divide hidden"),
        ("warm_start.enabled", False, r"set warm_start.enabled to true"),
        ("environment.data", "games", r"set environment.data to null, or policy.model"),
    ],
)
def test_refused_with_key_and_remedy(key: str, value: object, says: str) -> None:
    with pytest.raises(SdarError, match=says):
        parse_config(nested(key, value))


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(SdarError) as caught:
        parse_config({"training": {"step": 3, "minibatch": -1}, "seeds": "x"})
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert {line.split(": ")[1] for line in lines} == {
        "training.step",
        "training.minibatch",
        "seeds",
    }


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(SdarError, match="no such configuration; give --config"):
        load_config(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("training: [")
    with pytest.raises(SdarError, match=r"broken\.yaml: not valid YAML"):
        load_config(broken)
    broken.write_text("- 1\n")
    with pytest.raises(SdarError, match="expected keys and values, found list"):
        load_config(broken)
    broken.write_text("")
    assert load_config(broken) == ExperimentConfig()


def test_exponents_without_a_point_are_numbers(tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-6 as text; a learning rate written so must still be that number."""
    assert yaml.safe_load("1e-6") == "1e-6"
    path = tmp_path / "x.yaml"
    path.write_text("training: {learning_rate: 1e-6}")
    assert load_config(path).training.learning_rate == 1e-6


def real_data(data: Path) -> ExperimentConfig:
    return parse_config(
        {
            "environment": {"data": str(data)},
            "policy": {"model": "Qwen/Qwen3-1.7B"},
            "warm_start": {"enabled": False},
        }
    )


def test_missing_alfworld_data_names_the_key_and_the_download(tmp_path: Path) -> None:
    config = real_data(tmp_path / "nothing")
    with pytest.raises(SdarError, match=r"^environment\.data: .*nothing.*alfworld-download"):
        check_files(config)


def test_alfworld_data_without_a_panel_is_refused(tmp_path: Path) -> None:
    for split in ("train", "valid_seen"):
        (tmp_path / "json_2.1.1" / split).mkdir(parents=True)
    with pytest.raises(SdarError, match=r"lacks the split\(s\) valid_unseen"):
        check_files(real_data(tmp_path))
    (tmp_path / "json_2.1.1" / "valid_unseen").mkdir()
    check_files(real_data(tmp_path))


def test_skill_missing_for_a_type_is_refused(tmp_path: Path) -> None:
    for name in ALFWORLD_TASK_TYPES[1:]:
        (tmp_path / f"{name}.md").write_text("Look everywhere.")
    config = parse_config({"skills": {"library": str(tmp_path)}})
    with pytest.raises(SdarError, match=r"^skills\.library: .*has no general\.md"):
        check_files(config)
    (tmp_path / "general.md").write_text("")
    with pytest.raises(SdarError, match=rf"^skills\.library: .*{ALFWORLD_TASK_TYPES[0]}; add"):
        check_files(config)
    (tmp_path / f"{ALFWORLD_TASK_TYPES[0]}.md").write_text("Look everywhere.")
    check_files(config)


def test_skill_library_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    config = parse_config({"skills": {"library": str(tmp_path / "none")}})
    with pytest.raises(SdarError, match=r"^skills\.library: no folder .*none"):
        check_files(config)


def test_model_is_tiny_a_folder_or_a_hub_name(tmp_path: Path) -> None:
    def check(model: str) -> None:
        check_files(parse_config({"policy": {"model": model}, "warm_start": {"enabled": False}}))

    check("Qwen/Qwen3-1.7B")
    for model in ("qwen", "./models/mine", "/no/such/model", "a/b/c"):
        with pytest.raises(SdarError, match=r"^policy\.model: .*neither `tiny`, nor a folder"):
            check(model)
    with pytest.raises(SdarError, match=r"has no config\.json"):
        check(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    check(str(tmp_path))


def test_default_experiment_has_its_files() -> None:
    check_files(ExperimentConfig())
