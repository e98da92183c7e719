"""Search-QA's scoring against the reference's, case by case."""

import json
from pathlib import Path

import pytest

from sdar.cli.replay import replay
from sdar.environments.searchqa.engine.scoring import exact_match, substring_match
from sdar.errors import SdarError


def test_golden_cases(shared: Path) -> None:
    cases = json.loads((shared / "goldens" / "qa_scoring.json").read_text())
    assert len(cases) == 18
    for case in cases:
        given = (case["text"], case["targets"])
        assert exact_match(*given) == case["exact_match"], case
        assert substring_match(*given) == case["substring_match"], case


def test_replay_recognises_scoring_cases(shared: Path) -> None:
    report = replay(shared / "goldens" / "qa_scoring.json", "searchqa", Path())
    assert report.lines() == ["18 checked, 0 mismatches"]


def test_replay_tells_a_wrong_score(tmp_path: Path) -> None:
    case = {"text": "<answer>x</answer>", "targets": ["x"], "exact_match": 0, "substring_match": 1}
    file = tmp_path / "cases.json"
    file.write_text(json.dumps([case]))
    report = replay(file, "searchqa", tmp_path)
    assert report.mismatches == 1
    assert "expected (0, 1)\n  got      (1, 1)" in report.details[0]


def test_replay_names_the_right_environment(shared: Path) -> None:
    with pytest.raises(SdarError, match="use --environment searchqa"):
        replay(shared / "goldens" / "qa_scoring.json", "webshop", Path())
