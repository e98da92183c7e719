"""Keys that nothing reads beside the others are said."""

from pathlib import Path
from typing import Any

import pytest

from sdar.config import ExperimentConfig, load_config, parse_config
from sdar.config.checks import check_files
from sdar.config.unread import unread_keys

MODEL = {"policy": {"model": "a/b"}, "warm_start": {"enabled": False}}


def real(name: str, **keys: Any) -> dict[str, Any]:
    return MODEL | {"environment": {"name": name, "data": "d", **keys}}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (MODEL | {"policy": {"model": "a/b", "tiny": {"layers": 2}}}, "policy.tiny.layers"),
        (MODEL | {"warm_start": {"enabled": False, "updates": 3}}, "warm_start.updates"),
        (
            {"policy": {"model": "a/b"}, "warm_start": {"dagger": {"episodes": 3}}},
            "dagger.episodes",
        ),
        ({"policy": {"model": "a/b"}, "warm_start": {"matrix_learning_rate": 1.0}}, "matrix_"),
        (MODEL | {"execution": {"warm_start_threads": 1}}, "execution.warm_start_threads"),
        ({"rollout": {"vllm": {"eager": True}}}, "rollout.vllm.eager"),
        ({"rollout": {"answer_after": 3}}, "rollout.answer_after"),
        ({"rollout": {"engine": "vllm", "static_decode": False}}, "rollout.static_decode"),
        ({"skills": {"seed": 3}}, "skills.seed"),
        ({"tracking": {"enabled": False, "experiment": "x"}}, "tracking.experiment"),
        ({"sweep": {"steps": 3}}, "sweep.steps"),
        ({"training": {"distillation": {"gate": "none", "beta": 1.0}}}, "distillation.beta"),
        ({"methods": ["grpo"], "training": {"distillation": {"coefficient": 1.0}}}, "coefficient"),
        (
            {"methods": ["grpo"], "training": {"distillation": {"share": 0.5}}},
            "distillation.share",
        ),
        (
            {
                "methods": ["grpo", "rlsd"],
                "training": {"distillation": {"schedule": "linear", "steps": 3}},
            },
            "distillation.schedule",
        ),
        ({"training": {"distillation": {"steps": 3}}}, "distillation.steps"),
        ({"training": {"distillation": {"retire_below": 0.1}}}, "distillation.retire_below"),
        (
            {
                "training": {
                    "distillation": {"schedule": "linear", "steps": 3, "retire_over": 2},
                }
            },
            "distillation.retire_over",
        ),
        (real("alfworld", habit=0.5), "environment.habit"),
        (real("webshop", products=5), "environment.products"),
        (
            real("alfworld") | {"warm_start": {"demonstrations": {"worlds": 5}}},
            "warm_start.demonstrations.worlds",
        ),
        (real("searchqa", questions={"test": 3}), "environment.questions.test"),
        (
            {"environment": {"name": "searchqa", "retriever": {"query_prefix": "q"}}},
            "environment.retriever.query_prefix",
        ),
        ({"environment": {"name": "textworld_express", "data": "d"}} | MODEL, "environment.data"),
    ],
)
def test_a_key_that_nothing_reads_is_named(values: dict[str, Any], says: str) -> None:
    (sentence,) = unread_keys(parse_config(values))
    assert says in sentence
    assert "because" in sentence


@pytest.mark.parametrize(
    "values",
    [
        {"policy": {"tiny": {"layers": 2}}, "warm_start": {"updates": 3}},
        {"rollout": {"engine": "vllm", "answer_after": 3, "vllm": {"eager": True}}},
        {"skills": {"retrieval": "random", "seed": 3}},
        {"sweep": {"retrievals": ["random"], "steps": 3}, "skills": {"seed": 1}},
        {"environment": {"name": "searchqa", "retriever": {"kind": "dense", "query_prefix": "q"}}},
    ],
)
def test_what_is_read_is_not_named(values: dict[str, Any]) -> None:
    assert unread_keys(parse_config(values)) == []


def test_shipped_experiments_have_no_such_key(repository: Path) -> None:
    for path in (repository / "config").rglob("*.yaml"):
        if "accelerate" not in path.parts:
            assert unread_keys(load_config(path)) == [], path.name


def test_a_check_warns(caplog: pytest.LogCaptureFixture) -> None:
    check_files(ExperimentConfig())
    assert caplog.text == ""
    check_files(parse_config({"sweep": {"steps": 3}}))
    assert "sweep.steps" in caplog.text
