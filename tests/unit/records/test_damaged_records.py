"""What the comparison reads of evaluations and runs is whole, or named."""

from pathlib import Path

import polars as pl
import pytest

from sdar.config import ExperimentConfig, Layout
from sdar.environments.tasks import read_knowledge
from sdar.errors import SdarError
from sdar.files import lines
from sdar.records.runs import read_episodes, read_run
from sdar.records.tables import EPISODES
from sdar.report.results import make_report

CONFIG = ExperimentConfig.model_validate({"experiment": "small", "methods": ["grpo"], "seeds": [0]})


def run_with(root: Path, metrics: list[int], timings: list[int]) -> Layout:
    layout = Layout(root, "small")
    folder = layout.run("grpo", 0)
    folder.mkdir(parents=True)
    for name, steps, values in (
        ("metrics.jsonl", metrics, {"train/success": 0.5}),
        ("timings.jsonl", timings, {"total_s": 1.0}),
    ):
        (folder / name).write_text("".join(lines.encode(s, values)[0] for s in steps), "utf-8")
    return layout


def test_whole_records_are_read(tmp_path):
    run = read_run(run_with(tmp_path, [0, 1], [0, 1]), "grpo", 0)
    assert (run.steps, run.seconds) == (2, {"other": 1.0})


@pytest.mark.parametrize(
    ("metrics", "timings", "named"),
    [
        ([], [], "metrics.jsonl"),
        ([0, 2], [0, 2], "metrics.jsonl"),
        ([0, 1, 1], [0, 1, 2], "metrics.jsonl"),
        ([1, 0], [0, 1], "metrics.jsonl"),
        ([0, 1], [], "timings.jsonl"),
        ([0, 1], [0], "timings.jsonl"),
        ([0, 1], [1, 0], "timings.jsonl"),
    ],
)
def test_records_with_gaps_are_named(tmp_path, metrics, timings, named):
    layout = run_with(tmp_path, metrics, timings)
    with pytest.raises(SdarError, match=rf"grpo/seed-0/{named}: .*(train|restore)"):
        read_run(layout, "grpo", 0)


def test_an_evaluation_that_is_none_is_named(tmp_path):
    layout = Layout(tmp_path, "small")
    path = layout.evaluation("warm_start", 0) / "episodes.parquet"
    path.parent.mkdir(parents=True)
    said = r"warm_start/seed-0/evaluation/episodes.parquet.*sdar evaluate --method warm_start"
    tables = (
        pl.DataFrame({"other": [1]}),
        pl.DataFrame({name: ["text"] for name in EPISODES.names}),
    )
    contents = [b"", b"PAR1", b"\x00" * 64, b"[]\n"]
    for table in tables:
        table.write_parquet(path)
        contents.append(path.read_bytes())
    contents.append(contents[-1][: len(contents[-1]) // 2])
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(SdarError, match=said):
            read_episodes(CONFIG, layout)


@pytest.mark.parametrize("name", ["alfworld", "webshop", "searchqa"])
def test_a_generated_world_that_is_gone_is_named(tmp_path, name):
    """Without it, nothing could be told of the world, and a skill would say less in silence."""
    values = {"experiment": "small", "environment": {"name": name}, "evaluation": {}}
    if name != "alfworld":
        values["evaluation"] = {"panels": ["test"]}
    config = ExperimentConfig.model_validate(values)
    layout = Layout(tmp_path, "small")
    layout.tasks.mkdir(parents=True)
    with pytest.raises(SdarError, match=r"data/small/tasks/\w+\.json is missing: run `sdar tasks`"):
        read_knowledge(config.environment, layout)


@pytest.mark.parametrize("content", [None, b"\xff\xfe|", b"\xca\x00"])
def test_a_table_that_the_report_cannot_read_is_named(tmp_path, content):
    layout = Layout(tmp_path, "small")
    path = layout.results / "comparison.md"
    path.parent.mkdir(parents=True)
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SdarError, match=r"comparison\.md cannot be read .*sdar compare"):
        make_report(CONFIG, layout)
    assert not (layout.results / "figures").exists()
