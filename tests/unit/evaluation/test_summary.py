"""summary.json: rates by type and data set, and the environment's own score."""

import json

import polars as pl
import pyarrow as pa
import pytest

from sdar.evaluation.summary import flat_metrics, summarise
from sdar.records.tables import EPISODES
from sdar.report.comparison import build_comparison
from sdar.report.markdown import comparison_markdown


def row(task: int, success: bool, data_set: str = "", score: float | None = None) -> dict:
    values: dict = dict.fromkeys(EPISODES.names)
    return values | {
        "method": "grpo",
        "seed": 0,
        "with_skill": False,
        "panel": "test",
        "evaluation_seed": 0,
        "task_id": f"task-{task}",
        "task_type": "one_hop",
        "data_set": data_set,
        "success": success,
        "score": score,
        "return": float(success),
        "turns": 2,
        "invalid_share": 0.0,
        "inadmissible_share": 0.0,
        "response_tokens": 5,
    }


def table(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=EPISODES)


def test_data_sets_of_unequal_size_are_weighted_by_example_and_once_each() -> None:
    rows = [row(i, i < 2, "bamboogle") for i in range(4)]
    rows += [row(100 + i, i < 90, "nq") for i in range(100)]
    summary = summarise(table(rows), {"method": "grpo"})
    (panel,) = summary["panels"]
    assert panel["success"]["rate"] == pytest.approx(92 / 104)
    assert panel["by_data_set"]["bamboogle"]["rate"] == 0.5
    assert panel["by_data_set"]["nq"]["tasks"] == 100
    assert panel["mean_of_data_sets"]["rate"] == pytest.approx((0.5 + 0.9) / 2)
    metrics = flat_metrics(summary)
    assert metrics["test/success/nq"] == 0.9
    assert metrics["test/mean_of_data_sets"] == pytest.approx(0.7)


def test_an_episode_without_a_purchase_scores_nothing() -> None:
    rows = [row(0, True, score=1.0), row(1, False, score=0.5), row(2, False)]
    (panel,) = summarise(table(rows), {})["panels"]
    assert panel["score"] == 0.5
    assert flat_metrics({"panels": [panel]})["test/score"] == 0.5


def test_neither_is_there_where_the_environment_has_none() -> None:
    (panel,) = summarise(table([row(0, True)]), {})["panels"]
    assert not {"score", "by_data_set", "mean_of_data_sets"} & panel.keys()


def test_the_comparison_shows_scores_and_data_sets() -> None:
    rows = []
    for method, with_skill, rate in (("warm_start", False, 2), ("skill_prompt", True, 3)):
        for i in range(40):
            plain = row(i, i % 4 < rate, "nq" if i < 30 else "bamboogle", (i % 4 < rate) * 1.0)
            rows.append(plain | {"method": method, "with_skill": with_skill})
    comparison = build_comparison(pl.DataFrame(table(rows)), [], experiment="x", temperature=0.4)
    first = comparison.results[0]
    assert first.score is not None
    assert first.score.mean == first.rate.rate == 0.5
    assert first.data_sets is not None
    assert first.data_sets.by_set["nq"].tasks == 30
    text = comparison_markdown(comparison)
    assert "## Score" in text
    assert "| mean of the 2 sets" in text
    assert "| bamboogle" in text
    json.dumps(comparison.as_dict())
