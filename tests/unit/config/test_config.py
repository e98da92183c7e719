"""Configurations that must be refused, each with its key's path and the remedy."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sdar.config import ExperimentConfig, load_config, parse_config
from sdar.config.checks import check_files
from sdar.config.generate import default_yaml
from sdar.config.load import merge_values
from sdar.environments.alfworld.config import ALFWORLD_TASK_TYPES
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
        ("environment.name", "doom", r"environment: .*webshop"),
        ("training.distillation.share", 0, r"training\.distillation\.share: .*greater than 0"),
        (
            "training.distillation.schedule",
            "linear",
            r"training\.distillation: schedule is linear, but steps is null: give it a number",
        ),
        ("training.distillation.schedule", "retire", r"is retire, but retire_below is null"),
        ("sweep.shares", [1.5], r"sweep\.shares\.0: .*less than or equal to 1"),
        ("skills.retrieval", "best", r"skills\.retrieval: .*keyword.*found 'best'"),
        ("sweep.gates", ["gap", "gap"], r"sweep\.gates: lists a value twice"),
        ("sweep.betas", [-1.0], r"sweep\.betas\.0: .*greater than or equal to 0"),
        ("sweep.method", "rlsd", r"sweep\.method: .*sdar_gigpo.*found 'rlsd'"),
        ("sweep.panels", ["train"], r"sweep\.panels: train is not among evaluation\.panels"),
        ("sweep.gate", ["gap"], r"sweep\.gate: unknown key \(did you mean gates\?\)"),
    ],
)
def test_refused_with_key_and_remedy(key: str, value: object, says: str) -> None:
    with pytest.raises(SdarError, match=says):
        parse_config(nested(key, value))


def test_a_share_that_a_method_cannot_take_is_refused() -> None:
    few: dict[str, Any] = {"training": {"distillation": {"share": 0.05}}}
    with pytest.raises(SdarError, match=r"rlsd would turn the sign .* raise it to 0\.1 or more"):
        parse_config(few | {"methods": ["sdar", "rlsd"]})
    assert parse_config(few | {"methods": ["sdar", "skill_sd"]}).training.distillation.share == 0.05


@pytest.mark.parametrize("beside", [{}, {"worlds": 1000}], ids=["alone", "over the defaults"])
def test_the_old_name_of_worlds_is_read_with_a_warning(
    beside: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    config = parse_config(nested("warm_start.demonstrations", {**beside, "homes": 8}))
    assert config.warm_start.demonstrations.worlds == 8
    assert "warm_start.demonstrations.homes is called worlds now" in caplog.text


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        (
            {"name": "webshop", "product": 3},
            r"environment\.product: unknown key \(did you mean products\?\)",
        ),
        (
            {"name": "webshop", "goals": {"train": 0}},
            r"environment\.goals\.train: .*greater than 0",
        ),
        ({"name": "searchqa", "habit": 0.5}, r"environment\.habit: unknown key \(known: name, "),
        ({"games": {"trian": 3}}, r"environment\.games\.trian: unknown key \(did you mean train"),
    ],
)
def test_keys_of_any_environment_are_named_without_its_tag(
    environment: dict[str, object], says: str
) -> None:
    with pytest.raises(SdarError, match=says):
        parse_config({"environment": environment})


def test_merging_goes_key_by_key_in_depth() -> None:
    base = {"a": {"b": 1, "c": {"d": 2, "e": 3}}, "f": [1, 2], "g": None}
    over = {"a": {"c": {"d": 4}}, "f": [3], "g": {"h": 5}}
    assert merge_values(base, over) == {
        "a": {"b": 1, "c": {"d": 4, "e": 3}},
        "f": [3],
        "g": {"h": 5},
    }
    assert base["a"] == {"b": 1, "c": {"d": 2, "e": 3}}
    assert merge_values(base, {}) == base


def test_another_environment_replaces_the_bases_section() -> None:
    """Its keys are others: what the base says of ALFWorld must not remain below it."""
    base = yaml.safe_load(default_yaml())
    webshop = {"environment": {"name": "webshop", "products": 50}}
    merged = merge_values(base, webshop)
    assert merged["environment"] == webshop["environment"]
    assert parse_config(merged) == parse_config(webshop)
    assert parse_config(merged).evaluation.panels == ("test",)
    for evaluation in ({"panels": ["test"], "seeds": [1]}, {"seeds": [1]}):
        chosen = webshop | {"evaluation": evaluation}
        for order in (chosen, dict(reversed(chosen.items()))):
            assert parse_config(merge_values(base, order)) == parse_config(chosen)
    same = merge_values(base, {"environment": {"name": "alfworld", "home": 3}})
    assert same["environment"] == base["environment"] | {"home": 3}
    unnamed = merge_values(base, {"environment": {"home": 3}})
    assert unnamed == same


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


def written(folder: Path, **texts: str) -> Path:
    """Files NAME.yaml with these texts; the path of the last."""
    for name, text in texts.items():
        path = folder / f"{name}.yaml"
        path.write_text(text)
    return path


def test_a_file_is_laid_over_its_base(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    written(
        tmp_path,
        first="{experiment: first, seeds: [7], training: {minibatch: 16, micro_batch: 8}}",
        second="{base: first.yaml, experiment: second, training: {steps: 4}}",
    )
    path = written(tmp_path / "own", third="{base: ../second.yaml, seeds: [8]}")
    config = load_config(path)
    assert (config.experiment, config.seeds) == ("second", (8,))
    assert (config.training.steps, config.training.minibatch) == (4, 16)
    assert load_config(tmp_path / "first.yaml").seeds == (7,)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ({"one": "base: none.yaml"}, r"none\.yaml: no such configuration"),
        ({"one": "base: one.yaml"}, "base is 'one.yaml'; name another file"),
        (
            {"one": "base: two.yaml", "two": "base: one.yaml"},
            r"one\.yaml: base is 'two.yaml'; name another file, which is not based on this one",
        ),
        ({"one": "base: [two.yaml]"}, r"base is \['two.yaml'\]; name another file"),
        (
            {"two": "- 1", "one": "base: two.yaml"},
            r"two\.yaml: expected keys and values, found list",
        ),
        ({"one": "{environment: {base: two.yaml}}"}, "environment.base: unknown key"),
    ],
)
def test_a_base_that_cannot_be_is_refused(tmp_path: Path, texts: dict[str, str], says: str) -> None:
    with pytest.raises(SdarError, match=says):
        load_config(written(tmp_path, **texts))


BAD_NAMES = [
    "x; touch PWNED; echo ",
    "$(touch PWNED)",
    "`touch PWNED`",
    'a"b',
    "a'b",
    "a\nb",
    "a\n",
    "../..",
    "/absolute",
    "two words",
    "${methods}",
    "{method}",
    "naïve",
    "-x",
    ".hidden",
    "",
    "a" * 300,
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_what_becomes_a_path_or_a_word_of_a_command_is_a_plain_name(name: str) -> None:
    real = {"environment": {"data": "d"}, "policy": {"model": "a/b"}}
    real["warm_start"] = {"enabled": False}
    for key, values in (
        ("experiment", {"experiment": name}),
        ("methods.0", {"methods": [name]}),
        ("seeds.0", {"seeds": [name]}),
        ("evaluation.panels.0", real | {"evaluation": {"panels": [name]}}),
        ("evaluation.seeds.0", {"evaluation": {"seeds": [name]}}),
        ("sweep.panels.0", {"sweep": {"panels": [name]}}),
        ("sweep.seeds.0", {"sweep": {"seeds": [name]}}),
        ("sweep.gates.0", {"sweep": {"gates": [name]}}),
    ):
        with pytest.raises(SdarError, match=re.escape(f"{key}: ")) as raised:
            parse_config(values)
        assert len(str(raised.value)) < 1000
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("seed", [-1, True, 1.5, 2**32, 10**30])
def test_a_seed_is_a_number_that_fits_a_path(seed: object) -> None:
    for key in ("seeds", "evaluation", "sweep"):
        values = {key: [seed]} if key == "seeds" else {key: {"seeds": [seed]}}
        with pytest.raises(SdarError, match=r"seeds\.0: "):
            parse_config(values)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a" * 300])
def test_mlflow_s_experiment_is_one_line(name: str) -> None:
    with pytest.raises(SdarError, match=r"tracking\.experiment: give one line"):
        parse_config({"tracking": {"experiment": name}})
    shown = "Été: 10 % more; $(x)"
    assert parse_config({"tracking": {"experiment": shown}}).tracking.experiment == shown


def test_many_problems_are_said_in_a_few_lines() -> None:
    with pytest.raises(SdarError, match="5 further problems") as raised:
        parse_config({f"key{number}": 1 for number in range(9)})
    assert len(str(raised.value)) < 1000


def test_a_model_beside_the_usual_warm_start_is_warm_started() -> None:
    """It was not read: a tiny policy was made and trained in its place."""
    for model in ("Qwen/Qwen3-1.7B", "/models/mine"):
        assert parse_config({"policy": {"model": model}}).warm_start.enabled
        parse_config({"policy": {"model": model}, "warm_start": {"enabled": False}})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"warm_start": {"lora": {}}}, "warm_start.lora: policy.model 'tiny'"),
        (
            {"policy": {"model": "a/b"}, "warm_start": {"lora": {}, "optimizer": "muon"}},
            "warm_start: optimizer is muon",
        ),
        (
            {"policy": {"model": "a/b"}, "warm_start": {"lora": {"targets": ["lm_head"]}}},
            "warm_start.lora: targets: embedding and head",
        ),
    ],
)
def test_a_warm_start_that_cannot_be_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(SdarError) as raised:
        parse_config(values)
    assert says in str(raised.value)


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


def test_model_is_tiny_a_folder_or_a_hub_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def check(model: str) -> None:
        check_files(parse_config({"policy": {"model": model}, "warm_start": {"enabled": False}}))

    check("Qwen/Qwen3-1.7B")
    for model in ("qwen", "./models/mine", "/no/such/model", "a/b/c"):
        with pytest.raises(SdarError, match=r"^policy\.model: .*neither `tiny`, nor a folder"):
            check(model)
    for model in ("./models/smollm2-135m-instruct", str(tmp_path / "models/smollm2-135m-instruct")):
        with pytest.raises(SdarError, match=r"^policy\.model: .*make it with `make smollm2`"):
            check(model)
    with pytest.raises(SdarError, match=r"has no config\.json"):
        check(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    check(str(tmp_path))


def test_default_experiment_has_its_files() -> None:
    check_files(ExperimentConfig())


@pytest.mark.parametrize(
    ("environment", "panel", "remedy"),
    [
        ({"name": "webshop"}, "valid_seen", r"set evaluation\.panels to \[test\]"),
        ({"name": "searchqa"}, "nq", r"set evaluation\.panels to \[test\]"),
        ({}, "test", r"set evaluation\.panels to \[valid_seen, valid_unseen\]"),
    ],
)
def test_a_panel_the_environment_does_not_have_is_refused(environment, panel, remedy) -> None:
    with pytest.raises(SdarError, match=f"has no panel {panel}; {remedy}"):
        parse_config({"environment": environment, "evaluation": {"panels": [panel]}})
    real = {"name": "searchqa", "data": "/questions"}
    values = {"environment": real, "evaluation": {"panels": ["nq"]}, "policy": {"model": "a/b"}}
    values["warm_start"] = {"enabled": False}
    assert parse_config(values).evaluation.panels == ("nq",)


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, "turns"),
        ({"engine": "vllm"}, "continuous"),
        ({"engine": "vllm", "schedule": "turns"}, "turns"),
        ({"schedule": "continuous"}, "continuous"),
    ],
)
def test_the_schedule_suits_the_engine_unless_it_is_said(given, chosen):
    assert parse_config({"rollout": given}).rollout.chosen_schedule == chosen
