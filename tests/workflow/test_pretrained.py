"""A pretrained model through the whole pipeline: it is warm-started, trained, evaluated, compared.

A random model of a few thousand weights, saved as pretrained ones are; two ranks where it learns.
"""

import json
import re
from pathlib import Path

import pretrained_world
import pytest
import yaml
from pipeline_runner import copy_workflow, snakemake
from safetensors.torch import load_file

from sdar.files.digest import folder_digest

EXPERIMENT = {
    "experiment": "pretrained",
    "methods": ["sdar"],
    "seeds": [0],
    "environment": {
        "name": "searchqa",
        "questions": {"train": 8, "test": 6},
        "max_turns": 3,
        "history": 1,
    },
    "policy": {
        "model": "./model",
        "max_prompt_tokens": 1000,
        "max_teacher_prompt_tokens": 1600,
        "max_response_tokens": 128,
    },
    "warm_start": pretrained_world.WARM_START,
    "training": {
        "steps": 2,
        "tasks_per_step": 2,
        "group_size": 2,
        "minibatch": 8,
        "micro_batch": 4,
        "checkpoint_every": 1,
    },
    "evaluation": {"panels": ["test"], "recorded_episodes": 1},
    "tracking": {"enabled": False},
    "execution": {"device": "cpu", "processes": 2},
}


@pytest.fixture(scope="module")
def finished(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the pipeline ran to its end."""
    folder = copy_workflow(repository, tmp_path_factory.mktemp("pretrained"))
    pretrained_world.save_model(folder / "model", template="llama3", family="llama")
    (folder / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    done = snakemake(folder, "--configfile", "experiment.yaml", "--", "all")
    assert done.returncode == 0, done.stdout[-5000:]
    return folder


def test_what_is_trained_descends_from_the_model(finished: Path) -> None:
    runs = finished / "runs" / "pretrained"
    folders = (finished / "model", runs / "warm_start" / "policy", runs / "sdar/seed-0/policy")
    given, warm, trained = (load_file(folder / "model.safetensors") for folder in folders)
    assert given.keys() == warm.keys() == trained.keys()
    for before, after in ((given, warm), (warm, trained)):
        moved = max(float((after[name] - before[name]).abs().max()) for name in before)
        assert 0 < moved < 0.05, "learned, and no other weights"
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1
    provenance = json.loads((runs / "sdar/seed-0/provenance.json").read_text())
    assert provenance["inputs"]["policy"]
    for log, command in (("warm_start", "warm start"), ("train/sdar-0", "sdar/seed-0")):
        said = (finished / "logs" / "pretrained" / f"{log}.log").read_text()
        assert command in said


def test_the_gap_of_the_warm_start_is_the_first_number_of_the_report(finished: Path) -> None:
    results = finished / "results" / "pretrained"
    comparison = json.loads((results / "comparison.json").read_text())
    rates = {result["method"]: result["rate"]["rate"] for result in comparison["results"]}
    assert rates.keys() == {"warm_start", "skill_prompt", "sdar"}
    table = (results / "comparison.md").read_text()
    title, first, *_ = re.split(r"^#+ ", table, flags=re.MULTILINE)[1:]
    assert not re.search(r"\d", title)
    assert first.startswith("What there is to distil\n")
    assert "same weights + skill" in first
    gap = comparison["privilege"]["test"]["difference"]
    assert gap == pytest.approx(rates["skill_prompt"] - rates["warm_start"])
    policy = finished / "runs" / "pretrained" / "warm_start" / "policy"
    for name in ("warm_start", "skill_prompt"):
        evaluation = finished / "runs" / "pretrained" / name / "seed-0" / "evaluation"
        summary = json.loads((evaluation / "summary.json").read_text())
        assert summary["policy"] == folder_digest(policy), "the weights that training begins with"
    page = (results / "comparison.html").read_text()
    assert page.index("What there is to distil") < page.index("Success")


def test_finished_nothing_runs_again(finished: Path) -> None:
    done = snakemake(finished, "--dry-run", "--configfile", "experiment.yaml", "--", "all")
    assert "Nothing to be done" in done.stdout, done.stdout[-2000:]
