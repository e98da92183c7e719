"""`environment.prompt_layout` reaches whatever makes a prompt, from demonstrations to records."""

from pathlib import Path

import pytest

from sdar.config import Layout, parse_config
from sdar.config.load import read_values
from sdar.environments.searchqa.prompt import MAY_SEARCH
from sdar.environments.tasks import make_tasks
from sdar.evaluation.evaluate import evaluate
from sdar.files.tables import load_table
from sdar.training.demonstrations import make_demonstrations
from sdar.training.trainer import train
from sdar.training.warm_start import warm_start

SMALLER = {
    "environment": {"prompt_layout": "prefix"},
    "tracking": {"enabled": False},
    "execution": {"warm_start_threads": 1},
    "training": {"steps": 1},
}


def prompts(path: Path) -> list[str]:
    """All prompts in a file of ours."""
    table = load_table(path)
    names = [
        name for name in ("user", "student_prompt", "teacher_prompt") if name in table.schema.names
    ]
    assert names, path
    return [text for name in names for text in table[name].to_pylist()]


@pytest.mark.slow
def test_every_prompt_of_an_experiment_has_its_layout(repository: Path, tmp_path: Path) -> None:
    values = read_values(repository / "config" / "experiments" / "minute-searchqa.yaml")
    for section, keys in SMALLER.items():
        values[section] = values.get(section, {}) | keys
    config = parse_config(values)
    layout = Layout(tmp_path, config.experiment)
    make_tasks(config.environment, config.evaluation.panels, layout)
    make_demonstrations(config, layout)
    warm_start(config, layout)
    train(config, layout, "sdar", 0)
    for method in ("skill_prompt", "sdar"):
        evaluate(config, layout, method, 0)
    found = [
        layout.demonstrations / "demonstrations.parquet",
        *(layout.warm_start / "relabelled").glob("*.parquet"),
        *(layout.run("sdar", 0) / "tokens").glob("*.parquet"),
        *(layout.evaluation(method, 0) / "tokens.parquet" for method in ("skill_prompt", "sdar")),
    ]
    assert len(found) >= 5
    for path in found:
        shown = prompts(path)
        assert shown, path
        for text in shown:
            # Behind the markers of the chat, and the skill where there is one.
            assert f"{MAY_SEARCH}\nQuestion: " in text, path
            assert MAY_SEARCH not in text.partition("Question: ")[2], path
