"""Cheaper teaching: a share of the turns, and schedules of the term; also in killed runs."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import trainer_world

from sdar.errors import SdarError
from sdar.files import lines
from sdar.layout import Layout
from sdar.policy.log_probs import PolicyScorer, score_responses
from sdar.training import learner, trainer
from sdar.training.learner import Learner

SCRIPT = Path(trainer_world.__file__)
# Any gap is small enough for `retire`, which ends the term once it has three of them.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "share": ("sdar", {"share": 0.25}),
    "linear": ("sdar", {"schedule": "linear", "steps": 3}),
    "retire": ("sdar", {"schedule": "retire", "retire_below": 1e3, "retire_over": 3}),
    "adaptive": ("sdar_adaptive", {"share": 0.25, "schedule": "linear", "steps": 4}),
}


def values(case: str) -> dict[str, dict[str, Any]]:
    return {"training": {"distillation": CASES[case][1], "record_tokens_every": 1}}


def metrics(folder: Path) -> list[dict[str, Any]]:
    return lines.read(folder / "metrics.jsonl")


def timings(folder: Path) -> list[dict[str, Any]]:
    return lines.read(folder / "timings.jsonl")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("finished")
    return {
        case: trainer_world.run(root / case, method, values=values(case))
        for case, (method, _) in CASES.items()
    } | {"whole": trainer_world.run(root / "whole")}


@pytest.mark.parametrize("case", ["adaptive", "retire"])
def test_killed_and_continued(case, finished, tmp_path):
    """In the third step: what the first two left is in a checkpoint."""
    method = CASES[case][0]
    options = ["--values", json.dumps(values(case))]
    command = [sys.executable, str(SCRIPT), str(tmp_path), method, "0", *options]
    died = subprocess.run([*command, "--kill-at-call", "8"], capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    subprocess.run(command, check=True, capture_output=True)
    folder = tmp_path / "runs" / "world" / method / "seed-0"
    for name in ("metrics.jsonl", "policy/model.safetensors"):
        assert (folder / name).read_bytes() == (finished[case] / name).read_bytes(), name
    tokens = "tokens/step-00004.parquet"
    assert pl.read_parquet(folder / tokens).equals(pl.read_parquet(finished[case] / tokens))


def test_the_state_of_a_retirement_matters(finished, tmp_path):
    """Without it the resumed run would be another one: the comparison above can fail."""
    folder = tmp_path / "runs" / "world" / "sdar" / "seed-0"
    shutil.copytree(finished["retire"], folder)
    shutil.rmtree(folder / "policy")
    shutil.rmtree(folder / "checkpoints" / "step-00005")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "restore", lambda learner, state: None)
        trainer_world.run(tmp_path, values=values("retire"))
    ours, theirs = (f / "metrics.jsonl" for f in (folder, finished["retire"]))
    assert ours.read_bytes() != theirs.read_bytes()


def test_a_share_costs_that_share(finished):
    part, whole = timings(finished["share"]), timings(finished["whole"])
    spent = [sum(step["teacher_tokens"] for step in run) for run in (part, whole)]
    assert 0.1 < spent[0] / spent[1] < 0.45
    for step, line in enumerate(metrics(finished["share"])):
        # One of six episodes with three turns or fewer may be all that is taught, or none.
        assert 0 <= line["teacher/taught_share"] < 1
        assert ("gap/mean" in line) == (line["teacher/taught_share"] > 0), step
    assert "teacher/taught_share" not in metrics(finished["whole"])[0]


def test_records_hold_no_gap_of_a_turn_that_was_not_taught(finished):
    rows = pl.concat(
        [pl.read_parquet(path) for path in sorted((finished["share"] / "tokens").glob("*.parquet"))]
    )
    untaught = rows.filter(pl.col("teacher_prompt").is_null())
    taught = rows.filter(pl.col("teacher_prompt").is_not_null())
    assert min(untaught.height, taught.height) > 0
    for name in ("teacher_log_prob", "gap", "gate"):
        assert untaught[name].null_count() == untaught.height
        assert taught[name].null_count() == 0
    assert untaught["student_log_prob"].null_count() == 0
    assert (
        taught["gap"] - (taught["teacher_log_prob"] - taught["student_log_prob"])
    ).abs().max() < 1e-6


@pytest.mark.parametrize(("case", "ends"), [("linear", 3), ("retire", 3), ("adaptive", 4)])
def test_where_the_term_has_ended_the_teacher_is_not_asked(case, ends, finished):
    run, spent = metrics(finished[case]), timings(finished[case])
    for step in range(5):
        assert (run[step]["teacher/coefficient"] > 0) == (step < ends)
        asked = {name for name in run[step] if name.startswith(("gap/", "gate/", "skill/"))}
        if step >= ends:
            assert not asked
            assert "loss/distillation" not in run[step]
            assert spent[step]["teacher_tokens"] == 0
            assert "teacher_s" not in spent[step]
    if case == "linear":
        left = [line["teacher/coefficient"] for line in run]
        assert left == pytest.approx([0.1, 0.1 * 2 / 3, 0.1 / 3, 0.0, 0.0])


def test_without_the_teacher_a_step_is_that_of_the_method_without_the_term(tmp_path):
    """`sdar` retired before its first step is `grpo`, bit for bit."""
    retired = {"distillation": {"schedule": "retire", "retire_below": 1.0}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "coefficient_left", lambda self, step: 0.0)
        sdar = trainer_world.run(tmp_path / "sdar", "sdar", values={"training": retired})
    grpo = trainer_world.run(tmp_path / "grpo", "grpo")
    name = "policy/model.safetensors"
    assert (sdar / name).read_bytes() == (grpo / name).read_bytes()


def test_credit_by_the_teacher_is_not_scheduled(tmp_path):
    """RLSD has no term: its own schedule says how far it redistributes."""
    folders = [
        trainer_world.run(tmp_path / kind, "rlsd", values={"training": {"distillation": chosen}})
        for kind, chosen in {
            "constant": {},
            "linear": {"schedule": "linear", "steps": 2},
        }.items()
    ]
    files = [[(f / name).read_bytes() for name in ("metrics.jsonl",)] for f in folders]
    assert files[0] == files[1]


class Scoring:
    """An engine that scores with the policy's own weights."""

    def __init__(self, engine: Any, model: Any) -> None:
        self.engine, self.scorer = engine, PolicyScorer(model)
        self.scored: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def score(self, prompts: list[list[int]], responses: list[list[int]]) -> list[list[float]]:
        assert all(prompts), "a turn that is not taught is not scored"
        self.scored.append(len(prompts))
        values_SR = score_responses(self.scorer, prompts, responses).log_probs
        return [row[: len(ids)].tolist() for row, ids in zip(values_SR, responses, strict=True)]


@pytest.mark.parametrize("case", ["share", "linear"])
def test_the_engine_scores_the_same_turns(case, finished, tmp_path, monkeypatch):
    engines: list[Scoring] = []
    plain = learner.open_engine

    def opened(config: Any, model: Any, *rest: Any, **named: Any) -> Scoring:
        engines.append(Scoring(plain(config, model, *rest, **named), model))
        return engines[-1]

    monkeypatch.setattr(learner, "open_engine", opened)
    for module in ("scoring", "playing"):
        monkeypatch.setattr(f"sdar.training.{module}.engine_scores", lambda config: True)
    folder = trainer_world.run(tmp_path, values=values(case))
    taught = [
        sum(count for name, count in line.items() if name.startswith("skill_samples/"))
        for line in metrics(finished[case])
    ]
    assert engines[0].scored == [
        count for step, count in enumerate(taught) if case == "share" or step < 3
    ]
    for ours, theirs in zip(metrics(folder), metrics(finished[case]), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("method", ["rlsd", "agent_opsd"])
def test_a_share_that_would_turn_the_sign_of_advantages_is_refused_before_anything(
    method, tmp_path
):
    config = trainer_world.configuration(distillation={"share": 0.05})
    with pytest.raises(SdarError, match=r"share is 0\.05, with which .* raise it to 0\.1 or more"):
        trainer.train(config, Layout(tmp_path, "world"), method, 0)
    assert not list(tmp_path.iterdir())
