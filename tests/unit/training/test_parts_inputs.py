"""What a training run reads decides whether a checkpoint is its own: tasks with their answers, and
data that episodes are played from."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import scripted
import torch
from transformers import AutoTokenizer

from sdar.config import ExperimentConfig, Layout, parse_config
from sdar.environments.tasks import make_tasks, read_tasks
from sdar.evaluation.subject import evaluation_key, subject_of
from sdar.policy.tokenizer import tokenizer_digest
from sdar.training import parts
from sdar.training.identity import RunIdentity


def write_questions(folder: Path, **answers: str) -> None:
    folder.mkdir(exist_ok=True)
    for split, answer in answers.items():
        row = {"id": "1", "question": f"Who, {split}?", "golden_answers": [answer]}
        text = json.dumps(row | {"data_source": "nq"}) + "\n"
        (folder / f"{split}.jsonl").write_text(text)


@pytest.fixture
def config(tmp_path: Path) -> ExperimentConfig:
    (tmp_path / "passages").write_text("[]")
    retriever = {"kind": "http", "urls": ["http://127.0.0.1:9"]}
    environment = {"name": "searchqa", "data": str(tmp_path / "data"), "retriever": retriever}
    values = {"environment": environment, "policy": {"model": "a/b"}}
    return parse_config(values | {"warm_start": {"enabled": False}})


@pytest.fixture
def inputs(config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the tasks and returns what training and evaluation say they depend on."""
    model, tokenizer = torch.nn.Linear(1, 1), scripted.tokenizer()
    monkeypatch.setattr(parts, "load_policy", lambda *_args, **_kw: (model, tokenizer))

    def read() -> tuple[RunIdentity, dict[str, Any]]:
        layout = Layout(tmp_path, config.experiment)
        make_tasks(config.environment, config.evaluation.panels, layout)
        opened = parts.open_parts(config, layout, torch.device("cpu"))
        opened.pool.close()
        method = parts.trained_method("grpo")
        identity = RunIdentity.of_training(config, method, 0, opened.inputs)
        subject = subject_of(config, layout, "skill_prompt", 0)
        panels = {"test": read_tasks(layout, "test")}
        return identity, evaluation_key(subject, config, panels, {})

    return read


def test_a_corrected_answer_is_other_data(tmp_path: Path, inputs: Any) -> None:
    write_questions(tmp_path / "data", train="Ada", test="Bob")
    identity, evaluated = inputs()
    assert inputs() == (identity, evaluated)
    write_questions(tmp_path / "data", train="Ada", test="Eve")
    same, others = inputs()
    assert same.depends_on == identity.depends_on, "training reads no test question"
    assert {key for key in others if others[key] != evaluated[key]} == {"tasks"}
    write_questions(tmp_path / "data", train="Ann", test="Eve")
    other, _ = inputs()
    before, after = identity.depends_on, other.depends_on
    assert {key for key in before if before[key] != after[key]} == {"inputs.tasks"}


def test_another_chat_template_or_vocabulary_is_another_tokenizer(tmp_path: Path) -> None:
    one, other, more = (deepcopy(scripted.tokenizer()) for _ in range(3))
    assert tokenizer_digest(one) == tokenizer_digest(other)
    one.save_pretrained(tmp_path)
    assert tokenizer_digest(AutoTokenizer.from_pretrained(tmp_path)) == tokenizer_digest(
        AutoTokenizer.from_pretrained(tmp_path)
    )
    other.chat_template = f"{other.chat_template} "
    more.add_tokens(["<another>"])
    assert len({tokenizer_digest(each) for each in (one, other, more)}) == 3
