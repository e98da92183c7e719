"""Keys that may be turned in the middle of a run: it goes on, and provenance says with what."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import trainer_world

from sdar.config import parse_config
from sdar.files import lines
from sdar.memory.advice import candidates

FIRST, ALL = 3, 5


def steps(folder: Path) -> list[int]:
    return [line["step"] for line in lines.read(folder / "metrics.jsonl")]


def spans(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "provenance.json").read_text())["computed_with"]


def turned(root: Path, caplog: pytest.LogCaptureFixture, **sections: dict[str, Any]) -> Path:
    """The folder of a run that had three steps, then two more with these keys."""
    trainer_world.run(root, steps=FIRST, checkpoint_every=1)
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="sdar.training"):
        training = {"steps": ALL, "checkpoint_every": 1} | sections.pop("training", {})
        return trainer_world.run(root, values=sections, **training)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trainer_world.run(tmp_path_factory.mktemp("untouched"), checkpoint_every=1)


@pytest.mark.parametrize(
    "sections",
    [
        {"training": {"activation_checkpointing": True}},
        {"training": {"reference": "host"}},
        {"training": {"checkpoint_every": 2, "keep_checkpoints": 1}},
        {"environment": {"max_turns": 3, "workers": 2}},
    ],
    ids=["activation_checkpointing", "reference", "checkpoint_every", "workers"],
)
def test_what_changes_nothing_is_the_same_run(
    sections: dict[str, Any],
    untouched: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = turned(tmp_path, caplog, **sections)
    assert (folder / "metrics.jsonl").read_bytes() == (untouched / "metrics.jsonl").read_bytes()
    for name in ("model.safetensors", "config.json"):
        ours, theirs = (path / "policy" / name for path in (folder, untouched))
        assert ours.read_bytes() == theirs.read_bytes()
    assert caplog.text == ""
    assert [span["from_step"] for span in spans(folder)] == [0]


@pytest.mark.parametrize(
    ("sections", "key", "value"),
    [
        ({"training": {"micro_batch": 2}}, "training.micro_batch", 2),
        ({"rollout": {"batch": 3}}, "rollout.batch", 3),
        ({"rollout": {"static_decode": True}}, "rollout.static_decode", True),
        ({"execution": {"device": "cpu", "threads": 2}}, "execution.threads", 2),
    ],
)
def test_what_rounds_otherwise_goes_on_and_is_on_record(
    sections: dict[str, Any], key: str, value: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = turned(tmp_path, caplog, **sections)
    assert steps(folder) == list(range(ALL))
    first, second = spans(folder)
    assert (first["from_step"], second["from_step"]) == (0, FIRST)
    assert second[key] == value != first[key]
    before, now = json.dumps(first[key]), json.dumps(value)
    assert f"continues at {FIRST} with {key} ({before}, now {now})" in caplog.text


def test_what_changes_the_result_begins_anew_and_says_which_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = turned(tmp_path, caplog, training={"learning_rate": 1e-2})
    assert steps(folder) == list(range(ALL))
    assert "not continued; training.learning_rate (0.001, now 0.01)" in caplog.text
    assert [span["from_step"] for span in spans(folder)] == [0]


def test_advice_names_only_keys_that_a_run_survives() -> None:
    """Where memory is short a key is turned in the middle of a run."""
    engines = ({"engine": "transformers"}, {"engine": "vllm", "vllm": {"sleep": False}})
    for rollout in engines:
        config = parse_config({"rollout": rollout})
        kinds = {key: changes for key, _, changes in config.leaves()}
        advised = {kinds[key] for key, _ in candidates(config, harsh=True)}
        assert advised == {"nothing", "rounding"}


def test_a_raised_limit_of_prompts_goes_on_and_is_on_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = "policy.max_prompt_tokens"
    folder = turned(tmp_path, caplog, policy={"max_prompt_tokens": 500})
    assert steps(folder) == list(range(ALL))
    first, second = spans(folder)
    assert (first["from_step"], second["from_step"]) == (0, FIRST)
    assert (first[key], second[key]) == (480, 500)
    assert f"continues at {FIRST} with {key} (480, now 500)" in caplog.text


def test_a_lowered_limit_and_one_raised_after_the_end_make_another_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = turned(tmp_path, caplog, policy={"max_prompt_tokens": 470})
    assert [span["from_step"] for span in spans(folder)] == [0]
    assert "is not continued; policy.max_prompt_tokens (480, now 470)" in caplog.text
    caplog.clear()
    training = {"steps": ALL, "checkpoint_every": 1}
    trainer_world.run(tmp_path, values={"policy": {"max_prompt_tokens": 490}}, **training)
    assert "the end of a run with lower limits" in caplog.text
    assert [span["from_step"] for span in spans(folder)] == [0]
    assert spans(folder)[0]["policy.max_prompt_tokens"] == 490
