"""What a stage depends on is said once, and what a change of a key does is true."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sdar.config import ExperimentConfig, parse_config
from sdar.config.dvc import check_dvc_yaml, dvc_stages, dvc_yaml
from sdar.config.generate import sections
from sdar.config.stages import (
    STAGES,
    Stage,
    changed,
    compact_keys,
    computed_with,
    content_digests,
    depends_on,
    fingerprint,
    played_data,
)
from sdar.errors import SdarError

ENVIRONMENTS = ("alfworld", "webshop", "searchqa", "textworld_express")
DVC_STAGES: dict[str, tuple[Stage, ...]] = {
    "data": ("tasks", "demonstrations"),
    "warm_start": ("warm_start",),
    "train": ("train",),
    "evaluate": ("evaluate",),
    "report": ("compare", "report"),
}


def of(environment: str) -> ExperimentConfig:
    return parse_config({"environment": {"name": environment}})


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_key_of_a_stage_is_there(environment: str) -> None:
    keys = {key for key, _, _ in of(environment).leaves()}
    for stage, roots in STAGES.items():
        for root in roots:
            there = any(key == root or key.startswith(f"{root}.") for key in keys)
            assert there, f"{stage}: the configuration has no {root}"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_key_that_changes_a_result_is_some_stage_s(environment: str) -> None:
    config = of(environment)
    decisive = {key for key, _, changes in config.leaves() if changes == "result"}
    used = {key for stage in STAGES for key in depends_on(config, stage)}
    assert decisive - used == {"experiment"}, "the name is in every path"


@pytest.mark.parametrize(
    "values",
    [
        {"environment": {"workers": 3}},
        {"training": {"checkpoint_every": 1, "keep_checkpoints": 3}},
        {"training": {"activation_checkpointing": True, "reference": "host"}},
        {"training": {"record_tokens_every": 1, "recorded_episodes": 1}},
        {"training": {"micro_batch": 8}, "rollout": {"batch": 16}},
        {"execution": {"threads": 2, "warm_start_threads": 1, "processes": 2, "device": "cpu"}},
        {"warm_start": {"checkpoint_every": 1}, "tracking": {"enabled": False}},
        {"rollout": {"vllm": {"gpu_memory_share": 0.2, "timeout": 5.0, "eager": True}}},
        {"cluster": {"partition": "gpu", "train": {"minutes": 5}}},
    ],
)
def test_harmless_keys_are_in_no_fingerprint(values: dict[str, Any]) -> None:
    plain, changed_config = ExperimentConfig(), parse_config(values)
    for stage in STAGES:
        assert fingerprint(plain, stage) == fingerprint(changed_config, stage), stage


def test_rounding_is_known_where_it_matters() -> None:
    turned = parse_config({"training": {"micro_batch": 8}, "execution": {"threads": 4}})
    assert computed_with(turned, "train")["training.micro_batch"] == 8
    assert computed_with(turned, "train")["execution.threads"] == 4
    assert "training.micro_batch" not in computed_with(turned, "evaluate")
    assert computed_with(turned, "tasks") == {}


def test_a_warm_start_depends_on_what_computes_it() -> None:
    """Of a pretrained model: on training's micro-batches and ranks, for the rounding, and on the
    rollout where it plays. What null stands for counts, and not that it is null."""
    model = {"policy": {"model": "a/b"}}
    tiny, pretrained = parse_config({}), parse_config(model)
    plays = parse_config(model | {"warm_start": {"dagger": {"rounds": 1}}})
    for key in ("execution.processes", "execution.threads"):
        assert key not in computed_with(tiny, "warm_start")
        assert key in computed_with(pretrained, "warm_start")
    assert computed_with(pretrained, "warm_start")["warm_start.micro_batch"] == 64
    assert "execution.warm_start_threads" not in computed_with(pretrained, "warm_start")
    assert "rollout.temperature" not in depends_on(pretrained, "warm_start")
    played = depends_on(plays, "warm_start")
    assert {"rollout.temperature", "rollout.engine", "policy.max_prompt_tokens"} <= played.keys()
    said = parse_config(model | {"warm_start": {"learning_rate": 1e-5, "updates": 300}})
    assert fingerprint(said, "warm_start") == fingerprint(pretrained, "warm_start")
    assert depends_on(tiny, "warm_start")["warm_start.learning_rate"] == 3e-3
    # Demonstrations are cut to the limits of a model that has its own tokenizer.
    assert "policy.max_prompt_tokens" in depends_on(pretrained, "demonstrations")
    assert "policy.max_prompt_tokens" not in depends_on(tiny, "demonstrations")


@pytest.mark.parametrize(
    ("values", "stages"),
    [
        (
            {"environment": {"prompt_layout": "prefix"}},
            {"tasks", "demonstrations", "warm_start", "train", "evaluate"},
        ),
        ({"rollout": {"engine": "vllm"}}, {"train", "evaluate"}),
        ({"rollout": {"temperature": 0.5}}, {"warm_start", "train"}),
        ({"training": {"learning_rate": 1.0}}, {"train"}),
        ({"training": {"distillation": {"beta": 1.0}}}, {"train", "evaluate", "report"}),
        ({"training": {"distillation": {"coefficient": 1.0}}}, {"train", "report"}),
        ({"skills": {"retrieval": "none"}}, {"train", "evaluate"}),
        ({"evaluation": {"seeds": [1]}}, {"evaluate", "compare", "report", "compare_sweep"}),
        (
            {"policy": {"tiny": {"layers": 2}}},
            {"demonstrations", "warm_start", "train", "evaluate"},
        ),
        ({"sweep": {"betas": [1.0]}}, {"compare_sweep"}),
    ],
)
def test_a_key_concerns_the_stages_that_read_it(values: dict[str, Any], stages: set[str]) -> None:
    plain, other = ExperimentConfig(), parse_config(values)
    assert {s for s in STAGES if fingerprint(plain, s) != fingerprint(other, s)} == stages


def test_the_panels_decide_which_real_tasks_there_are() -> None:
    real = {"environment": {"data": "d"}, "policy": {"model": "a/b"}}
    real |= {"warm_start": {"enabled": False}}
    for values, depends in (({}, False), (real, True)):
        assert ("evaluation.panels" in depends_on(parse_config(values), "tasks")) is depends


def test_an_edited_skill_counts_like_a_changed_key(tmp_path: Path) -> None:
    (tmp_path / "general.md").write_text("Look first.")
    config = parse_config({"skills": {"library": str(tmp_path)}})
    before = {stage: fingerprint(config, stage, content_digests(config)) for stage in STAGES}
    (tmp_path / "general.md").write_text("Look twice.")
    after = {stage: fingerprint(config, stage, content_digests(config)) for stage in STAGES}
    told = {"demonstrations", "warm_start", "train", "evaluate"}
    assert {stage for stage in STAGES if before[stage] != after[stage]} == told


def real_data(environment: str, folder: Path) -> tuple[dict[str, Any], list[tuple[Path, bool]]]:
    """Keys of an experiment on data in `folder`, and its files: which of them are played from."""
    section: dict[str, Any] = {"name": environment, "data": str(folder)}
    if environment == "alfworld":
        trial = folder / "json_2.1.1" / "train" / "type" / "trial"
        files = [(trial / "game.tw-pddl", True), (trial / "traj_data.json", True)]
    elif environment == "webshop":
        names = ("items_shuffle_1000", "items_ins_v2_1000", "items_human_ins", "nouns")
        files = [(folder / f"{name}.json", True) for name in names]
    else:
        section["retriever"] = {"kind": "dense", "passages": str(folder / "corpus" / "passages")}
        section["retriever"]["model"] = str(folder / "model")
        # The tasks' folder has the questions; what is searched is read from its own place.
        files = [(folder / "train.jsonl", False), (folder / "test.parquet", False)]
        files += [(folder / "corpus" / "passages", False), (folder / "model" / "weights", False)]
    return section, files


@pytest.mark.parametrize("environment", ["alfworld", "webshop", "searchqa"])
def test_edited_data_count_like_a_changed_key(environment: str, tmp_path: Path) -> None:
    section, files = real_data(environment, tmp_path / "data")
    for path, _ in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[1]")
    model = tmp_path / "model"
    model.mkdir()
    (model / "tokenizer.json").write_text("{}")
    values = {"policy": {"model": str(model)}, "warm_start": {"enabled": False}}
    config = parse_config(values | {"environment": section})

    def seen() -> dict[str, str]:
        content = content_digests(config)
        return {stage: fingerprint(config, stage, content) for stage in STAGES}

    told = {"tasks", "demonstrations", "warm_start", "train", "evaluate"}
    for path, played in files:
        before, before_played = seen(), played_data(config, ["train"])
        path.write_text("[2]")
        assert {stage for stage in STAGES if before[stage] != seen()[stage]} == told, path
        assert (played_data(config, ["train"]) != before_played) == played
    before = seen()
    (tmp_path / "data" / "README.md").write_text("Not read.")
    assert seen() == before
    moved = parse_config(values | {"environment": section | {"data": str(tmp_path / "moved")}})
    (tmp_path / "data").rename(tmp_path / "moved")
    if environment != "searchqa":
        content = content_digests(moved)
        assert before == {stage: fingerprint(moved, stage, content) for stage in STAGES}
    (model / "tokenizer.json").write_text("{ }")
    after = {s: fingerprint(moved, s, content_digests(moved)) for s in ("tasks", "train")}
    (model / "tokenizer.json").write_text("{  }")
    later = {s: fingerprint(moved, s, content_digests(moved)) for s in ("tasks", "train")}
    assert after["tasks"] == later["tasks"]
    assert after["train"] != later["train"]


@pytest.mark.parametrize("environment", ["alfworld", "webshop", "searchqa"])
def test_dvc_watches_real_data(environment: str, tmp_path: Path) -> None:
    section, files = real_data(environment, tmp_path)
    for path, _ in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[1]")
    values = {"policy": {"model": "a/b"}, "warm_start": {"enabled": False}}
    stages = dvc_stages(parse_config(values | {"environment": section}))
    for name in ("data", "train", "evaluate"):
        watched = [Path(path) for path in stages[name]["deps"]]
        for path, _ in files:
            assert any(path == dep or dep in path.parents for dep in watched), (name, path)


def test_every_key_that_names_files_says_what_its_content_does() -> None:
    """A new key of this kind belongs in `data_paths`, or here with the reason why not."""
    named = {
        f"{section.__name__}.{name}"
        for section in sections()
        for name, field in section.model_fields.items()
        if any(kind in str(field) for kind in ("expand_path", "function expand ", "Path"))
    }
    data = {f"{name.capitalize()}Config.data" for name in ("alfworld", "webshop", "searchqa")}
    retriever = {"RetrieverConfig.passages", "RetrieverConfig.model"}
    assert named == {
        *data,
        *retriever,
        "PolicyConfig.model",
        "TextworldExpressConfig.data",  # is never read
        "SkillsConfig.library",  # by its texts
        "ExecutionConfig.accelerate",  # changes only the rounding
    }


def test_a_difference_names_keys_and_values() -> None:
    before = {"training.steps": 30, "same": 1, "gone": None}
    assert changed(before, {"training.steps": 40, "same": 1, "new": "a"}) == (
        'new (not set, now "a"), training.steps (30, now 40)'
    )


def test_a_section_stands_for_its_keys_where_all_count() -> None:
    keys = compact_keys(ExperimentConfig(), ["evaluate"])
    assert "evaluation" in keys
    assert "environment" not in keys, "workers change nothing"
    assert "environment.games" in keys


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_dvc_depends_on_what_the_table_says(environment: str) -> None:
    """No key that changes nothing or only the rounding, and no key missing, by DVC's own reading:
    a name stands for all that lies below it."""
    config = of(environment)
    stages = dvc_stages(config)
    for name, ours in DVC_STAGES.items():
        named = stages[name]["params"][0]["config/config.yaml"]
        below = {
            key
            for key, _, _ in config.leaves()
            if any(key == root or key.startswith(f"{root}.") for root in named)
        }
        assert below == {key for stage in ours for key in depends_on(config, stage)}, name
        reads = stages[name].get("deps", [])
        library = f"src/sdar/environments/{environment}/skills"
        told = any("skills.library" in depends_on(config, stage) for stage in ours)
        assert (library in reads) == told, name


def test_a_pretrained_model_has_no_warm_start_stage() -> None:
    config = parse_config({"policy": {"model": "a/b"}, "warm_start": {"enabled": False}})
    stages = yaml.safe_load(dvc_yaml(config))["stages"]
    assert "warm_start" not in stages
    assert stages["data"]["outs"][0] == "data/alfworld-tiny/tasks"
    assert not any("demonstrations" in out for out in stages["data"]["outs"])
    assert stages["train"]["deps"] == [
        "data/alfworld-tiny/tasks",
        "src/sdar/environments/alfworld/skills",
    ]


def test_a_library_of_one_s_own_is_what_dvc_watches() -> None:
    stages = dvc_stages(parse_config({"skills": {"library": "my/skills"}}))
    assert "my/skills" in stages["train"]["deps"]


def test_dvc_fills_nothing_of_the_configuration_into_a_command() -> None:
    library = {"library": "it's $(touch PWNED)"}
    text = dvc_yaml(parse_config({"experiment": "mine", "skills": library}))
    assert "vars" not in yaml.safe_load(text)
    assert "${" not in text
    commands = [stage["cmd"] for stage in yaml.safe_load(text)["stages"].values()]
    assert not any(set(command) & set("$`;'\"\n") for command in commands)


def test_another_configuration_s_dvc_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dvc.yaml"
    for values in ({"experiment": "mine"}, {"seeds": [3]}, {"skills": {"library": "own"}}):
        config = parse_config(values)
        path.write_text(dvc_yaml(ExperimentConfig()))
        check_dvc_yaml(path, ExperimentConfig())
        with pytest.raises(SdarError, match=r"sdar config dvc > dvc\.yaml"):
            check_dvc_yaml(path, config)
        path.write_text(dvc_yaml(config) + "  own:\n    cmd: echo\n")
        check_dvc_yaml(path, config)
    path.unlink()
    with pytest.raises(SdarError, match=r"sdar config dvc > dvc\.yaml"):
        check_dvc_yaml(path, ExperimentConfig())
