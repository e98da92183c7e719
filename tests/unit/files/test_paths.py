"""Paths as people write them: one function for the check and for the use."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from sdar.cli.app import app
from sdar.cli.options import given_path
from sdar.config import load_config
from sdar.config.checks import check_files
from sdar.config.models import ExperimentConfig, TinyPolicyConfig
from sdar.errors import SdarError
from sdar.files.paths import GivenPath, expand, expand_path, model_folder
from sdar.policy.loading import load_policy
from sdar.policy.shape import shape_of_policy
from sdar.policy.tiny import make_tiny_policy
from sdar.policy.tokenizer import train_tokenizer


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", str(tmp_path / "data"))
    monkeypatch.setenv("IN_HOME", "~/data")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("NOPE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(home: Path, text: str) -> ExperimentConfig:
    (home / "experiment.yaml").write_text(text)
    return load_config(home / "experiment.yaml")


def test_home_and_variables_are_put_in(home: Path) -> None:
    assert expand("~/m") == f"{home}/m"
    assert expand("$DATA/m") == expand("${DATA}/m") == expand("~/data/m") == f"{home}/data/m"
    assert expand("$IN_HOME") == f"{home}/data"
    for text in ("tiny", "Qwen/Qwen3-1.7B", "models/m", "a b/~c", "./$", "cost$", "/x/~"):
        assert expand(text) == text
    assert expand_path(Path("~")) == home


@pytest.mark.parametrize("text", ["$NOPE/m", "${NOPE}", "a/$NOPE", "$EMPTY/m"])
def test_a_variable_that_is_not_set_is_named(home: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"environment variable (NOPE|EMPTY) is not set"):
        expand(text)


def test_a_home_that_nobody_has_is_named(home: Path) -> None:
    with pytest.raises(ValueError, match="~nobody-at-all/m lies in no home folder"):
        expand("~nobody-at-all/m")


def test_a_wrong_path_in_a_configuration_names_its_key(home: Path) -> None:
    for key, text in (
        ("environment.data", "environment: {name: webshop, data: $NOPE/shop}"),
        ("skills.library", "skills: {library: $NOPE/skills}"),
        ("policy.model", "policy: {model: $NOPE/m}"),
        ("execution.accelerate", "execution: {accelerate: $NOPE/a.yaml, processes: 2}"),
        (
            "environment.retriever.passages",
            "environment: {name: searchqa, retriever: {passages: $NOPE/p}}",
        ),
    ):
        with pytest.raises(SdarError, match=f": {key}: the environment variable NOPE is not set"):
            load(home, text)
    with pytest.raises(SdarError, match="base: the environment variable NOPE"):
        load(home, "base: $NOPE/other.yaml")


def test_the_file_of_a_store_too(home: Path) -> None:
    def uri(written: str) -> str:
        return load(home, f"tracking: {{uri: '{written}'}}").tracking.uri

    assert uri("sqlite:///~/mlflow.db") == f"sqlite:///{home}/mlflow.db"
    assert uri("sqlite:///$DATA/mlflow.db") == f"sqlite:///{home}/data/mlflow.db"
    for kept in ("sqlite:///mlflow.db", "sqlite:////srv/mlflow.db", "https://me:pa$word@host/~x"):
        assert uri(kept) == kept
    with pytest.raises(SdarError, match=r"tracking\.uri: the environment variable NOPE"):
        uri("sqlite:///$NOPE/mlflow.db")


def test_the_base_of_a_file_may_lie_in_the_home(home: Path) -> None:
    (home / "below.yaml").write_text("experiment: below")
    assert load(home, "base: ~/below.yaml").experiment == "below"


def paths_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, bool]]:
    """(key, is it read by `expand_path`?) of every key that is a path, in depth."""
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        kinds += [inner for kind in kinds for inner in get_args(kind)]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from paths_of(kind, f"{prefix}{name}.")
        if Path in kinds:
            yield f"{prefix}{name}", GivenPath in kinds


def test_every_path_of_the_configuration_is_read_by_it() -> None:
    found = list(paths_of(ExperimentConfig))
    assert {"environment.data", "skills.library", "execution.accelerate"} <= {k for k, _ in found}
    for key, read_by_it in found:
        assert read_by_it, f"{key} is a bare Path: use files.paths.GivenPath"


def test_what_a_model_is_called(home: Path) -> None:
    (home / "models" / "m").mkdir(parents=True)
    assert model_folder("models/m") == Path("models/m")
    assert model_folder("models/n") is None
    assert model_folder("Qwen/Qwen3-1.7B") is None
    assert model_folder("./models/n") == Path("models/n")
    assert model_folder("~/models/m") == home / "models" / "m"


@pytest.mark.parametrize("written", ["~/models/m", "$HOME/models/m", "models/m", "./models/m"])
def test_a_model_is_looked_for_where_it_is_loaded_from(home: Path, written: str) -> None:
    folder = home / "models" / "m"
    tokenizer = train_tokenizer(["put a pen in the drawer"], vocabulary=400, context=64)
    sizes = TinyPolicyConfig(layers=1, hidden=16, intermediate=16, heads=2, kv_heads=1, context=64)
    make_tiny_policy(sizes, tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = load(home, f"policy: {{model: {written}}}\nwarm_start: {{enabled: false}}")
    check_files(config)
    shape = shape_of_policy(config)
    assert shape is not None
    model, _ = load_policy(config.policy.model)
    assert model.config.num_hidden_layers == 1


def test_a_folder_without_a_model_is_refused_alike(home: Path) -> None:
    (home / "models" / "m").mkdir(parents=True)
    for written in ("~/models/m", "models/m", "~/models/n", "./models/n"):
        config = load(home, f"policy: {{model: {written}}}\nwarm_start: {{enabled: false}}")
        with pytest.raises(SdarError, match=r"policy\.model"):
            check_files(config)
        with pytest.raises(SdarError, match=r"config\.json is missing"):
            load_policy(config.policy.model)


def test_paths_on_the_command_line_too(home: Path) -> None:
    (home / "e.yaml").write_text("experiment: from-home")
    seen = CliRunner().invoke(app, ["config", "check", "--config", "~/e.yaml"])
    assert seen.exit_code == 0, seen.output
    assert "from-home" in seen.output
    seen = CliRunner().invoke(app, ["config", "check", "--config=$NOPE/e.yaml"])
    assert seen.exit_code == 2
    assert "NOPE is not set" in " ".join(seen.output.split())


def test_every_path_of_the_command_line_is_read_by_it() -> None:
    groups = [app, *(group.typer_instance for group in app.registered_groups)]
    commands = [one.callback for group in groups if group for one in group.registered_commands]
    found = 0
    for command in filter(None, commands):
        for name, kind in get_type_hints(command, include_extras=True).items():
            told = getattr(kind, "__metadata__", ())
            if told and Path in (kind.__origin__, *get_args(kind.__origin__)):
                found += 1
                assert told[0].callback is given_path, f"{command.__name__}: {name}"
    assert found > 20
