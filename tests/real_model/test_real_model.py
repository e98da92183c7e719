"""SmolLM2-135M-Instruct through the stages on Search-QA: before and after a short warm start, two
steps of SDAR, killed and continued, evaluation, report. Minutes on two cores, by `make
test-real-model`, which fetches the model first.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from sdar.config import Layout, load_config
from sdar.environments.base import Moment, PastTurn, Task
from sdar.environments.packages import environment_package
from sdar.environments.practices import open_practices
from sdar.policy.chat import ChatFormat
from sdar.policy.pretrained import read_tokenizer
from sdar.rollout.turns import fit_prompt
from sdar.skills.library import SkillLibrary
from sdar.training.demonstrations import expert_episode, library_of

pytestmark = pytest.mark.real_model
MODEL = Path(__file__).resolve().parents[2] / "models" / "smollm2-135m-instruct"
NAME = "real-model"
# Laid over config/experiments/searchqa-smollm2.yaml: as little as can be learned from.
SMALL: dict[str, Any] = {
    "experiment": NAME,
    "methods": ["sdar"],
    "seeds": [0],
    "environment": {"questions": {"train": 8, "test": 8}, "max_turns": 2, "history": 2},
    "policy": {"model": str(MODEL)},
    "warm_start": {
        "updates": 14,
        "batch": 6,
        "warmup": 4,
        "demonstrations": {"worlds": 30, "episodes": 30, "openings": 20},
    },
    "training": {
        "steps": 2,
        "tasks_per_step": 2,
        "group_size": 2,
        "minibatch": 16,
        "micro_batch": 8,
        "checkpoint_every": 1,
        "record_tokens_every": 1,
        "recorded_episodes": 2,
    },
    "evaluation": {"recorded_episodes": 2},
    "tracking": {"enabled": False},
}
TRAIN = ("train", "--method", "sdar", "--seed", "0")


@pytest.fixture(scope="module")
def model() -> Path:
    if not (MODEL / "config.json").is_file():
        pytest.fail(f"{MODEL} is not there: run `make smollm2`, or `make test-real-model`")
    return MODEL


@pytest.fixture(scope="module")
def root(model: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the configuration, where the warm start is done and evaluated."""
    folder = tmp_path_factory.mktemp("real-model")
    base = {"base": str(repository / "config" / "experiments" / "searchqa-smollm2.yaml")}
    (folder / "config.yaml").write_text(yaml.safe_dump(base | SMALL))
    for stage in ("tasks", "demonstrations", "warm-start"):
        sdar(folder, stage)
    for method in ("warm_start", "skill_prompt"):
        sdar(folder, "evaluate", "--method", method)
    return folder


@pytest.fixture(scope="module")
def killed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the root in which the training was killed after a step, and continued."""
    folder = tmp_path_factory.mktemp("killed") / "root"
    shutil.copytree(root, folder, ignore=shutil.ignore_patterns("sdar"))
    run = Layout(folder, NAME).run("sdar", 0)
    with (folder / "killed.log").open("w") as log:
        training = subprocess.Popen(
            command(folder, *TRAIN), stdout=log, stderr=log, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 900
            while not (run / "checkpoints" / "step-00001").is_dir():
                assert training.poll() is None, (folder / "killed.log").read_text()[-3000:]
                assert time.monotonic() < deadline, "no checkpoint in 15 minutes"
                time.sleep(0.05)
        finally:
            os.killpg(training.pid, signal.SIGKILL)
            training.wait()
    assert len((run / "metrics.jsonl").read_text().splitlines()) < 2
    assert not (run / "policy").exists()
    sdar(folder, *TRAIN)
    return folder


@pytest.fixture(scope="module")
def trained(root: Path) -> Path:
    """The root, after the training that nothing disturbed."""
    sdar(root, *TRAIN)
    return root


def test_most_responses_are_valid_after_the_warm_start_and_none_before(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    untouched = tmp_path_factory.mktemp("untouched")
    values = yaml.safe_load((root / "config.yaml").read_text())
    values["warm_start"] = {"enabled": False}
    (untouched / "config.yaml").write_text(yaml.safe_dump(values))
    shutil.copytree(root / "data", untouched / "data")
    sdar(untouched, "evaluate", "--method", "warm_start")
    before, after = (invalid_share(folder, "warm_start") for folder in (untouched, root))
    assert before > 0.9
    assert after < 0.5
    assert invalid_share(root, "skill_prompt") < 0.5


def test_a_killed_training_ends_with_the_same_bytes(trained: Path, killed: Path) -> None:
    one, other = (Layout(folder, NAME).run("sdar", 0) for folder in (trained, killed))
    steps = [json.loads(line) for line in (one / "metrics.jsonl").open()]
    assert [step["step"] for step in steps] == [0, 1]
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    weights = Path("policy") / "model.safetensors"
    assert (one / weights).read_bytes() == (other / weights).read_bytes()
    start = Layout(trained, NAME).warm_start / weights
    assert (one / weights).read_bytes() != start.read_bytes()
    # The teacher, told the skill, is another judge than the student: there is something to distil.
    assert all(abs(step["gap/mean"]) > 1e-3 for step in steps)


def test_evaluation_comparison_and_report_are_made(trained: Path) -> None:
    sdar(trained, "evaluate", "--method", "sdar", "--seed", "0")
    sdar(trained, "compare")
    sdar(trained, "report")
    results = Layout(trained, NAME).results
    comparison = json.loads((results / "comparison.json").read_text())
    assert {row["method"] for row in comparison["results"]} == {
        "warm_start",
        "skill_prompt",
        "sdar",
    }
    assert all(row["rate"]["tasks"] == 8 for row in comparison["results"])
    for name in ("comparison.html", "answers.html", "episodes.html"):
        assert (results / name).stat().st_size > 1000


@pytest.mark.parametrize("environment", ["alfworld", "webshop", "searchqa"])
def test_the_teachers_prompt_differs_by_the_skill_alone(
    model: Path, repository: Path, environment: str
) -> None:
    tokenizer = read_tokenizer(str(model))
    chat = ChatFormat.of(tokenizer)
    assert chat.placement == "default system message"
    package = environment_package(environment)
    library = SkillLibrary(None, None, environment)
    for task_type in library.task_types:
        task = Task("t", "train", task_type, "find <|im_end|> the 12 keys.", "w")
        past = (PastTurn("A shelf 1.", "<|im_start|>go"), PastTurn("A desk.\n\nThen.", "look"))
        moment = Moment(task, past, "You see a fridge 2. é☃\n", ("look", "open fridge 2"), 2)
        skill = library.lookup(task_type).text
        student = fit_prompt(tokenizer, package, moment, None, 8000).token_ids
        teacher = fit_prompt(tokenizer, package, moment, skill, 8000).token_ids
        more = len(teacher) - len(student)
        # After "<|im_start|>system\n".
        assert [*teacher[:3], *teacher[3 + more :]] == list(student)
        assert tokenizer.decode(teacher[3 : 3 + more]).strip() == skill.strip()
        assert list(student).count(1) == 3


@pytest.mark.parametrize("environment", ["alfworld", "webshop", "searchqa"])
def test_the_experiments_limits_hold_what_an_expert_meets(
    model: Path, repository: Path, tmp_path: Path, environment: str
) -> None:
    config = load_config(repository / "config" / "experiments" / f"{environment}-smollm2.yaml")
    chat, policy = ChatFormat.of(read_tokenizer(str(model))), config.policy
    libraries, hinted = library_of(config), set()
    with open_practices(config, Layout(tmp_path, NAME)) as practices:
        for index in range(30):
            for turn in expert_episode(config, practices, index, libraries):
                key = "max_teacher_prompt_tokens" if turn.hinted else "max_prompt_tokens"
                assert len(chat.prompt_ids(turn.messages)) <= getattr(policy, key)
                assert len(chat.response_ids(turn.response)) <= policy.max_response_tokens
                hinted.add(turn.hinted)
    assert hinted == {True, False}


def command(root: Path, *arguments: str) -> list[str]:
    options = ["--config", str(root / "config.yaml"), "--root", str(root)]
    return [sys.executable, "-m", "sdar.cli", *arguments, *options]


def sdar(root: Path, *arguments: str) -> None:
    done = subprocess.run(
        command(root, *arguments), capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}{done.stderr[-3000:]}"


def invalid_share(root: Path, method: str) -> float:
    evaluation = Layout(root, NAME).evaluation(method, 0)
    (panel, *_) = json.loads((evaluation / "summary.json").read_text())["panels"]
    return float(panel["invalid_share"])
