"""Runs that were not computed alike are named, with what and from where on."""

import json
from pathlib import Path

from sdar.records.rounding import rounding_differences, spans_of


def test_equal_runs_differ_in_nothing() -> None:
    spans = [{"from_step": 0, "execution.threads": 1}]
    assert rounding_differences([("a", spans), ("b", spans), ("old", [])]) == {}


def test_each_value_has_its_runs() -> None:
    runs = [
        ("grpo/seed-0", [{"from_step": 0, "execution.threads": 1, "training.micro_batch": 64}]),
        ("sdar/seed-0", [{"from_step": 0, "execution.threads": 2, "training.micro_batch": 64}]),
    ]
    assert rounding_differences(runs) == {
        "execution.threads": {"1": ["grpo/seed-0"], "2": ["sdar/seed-0"]}
    }


def test_a_run_that_went_on_otherwise_says_from_where() -> None:
    spans = [{"from_step": 0, "rollout.batch": 64}, {"from_step": 12, "rollout.batch": 16}]
    assert rounding_differences([("sdar/seed-0", spans)]) == {
        "rollout.batch": {"64": ["sdar/seed-0"], "16": ["sdar/seed-0 from step 12"]}
    }


def test_spans_come_from_provenance_where_it_has_them(tmp_path: Path) -> None:
    assert spans_of(tmp_path) == []
    spans = [{"from_chunk": 0, "execution.threads": 1}]
    (tmp_path / "provenance.json").write_text(json.dumps({"computed_with": spans}))
    assert spans_of(tmp_path) == spans
    (tmp_path / "provenance.json").write_text("{}")
    assert spans_of(tmp_path) == []
