"""Responses and what the reference makes of them."""

import json
from pathlib import Path

import pytest

from sdar.cli.replay import replay
from sdar.environments.packages import environment_package
from sdar.environments.parsing import ParsedAction

PARSE = {
    case: environment_package(name).parse
    for case, name in (("alfworld", "alfworld"), ("webshop", "webshop"), ("search", "searchqa"))
}


@pytest.mark.parametrize("environment", ["alfworld", "webshop", "search"])
def test_golden_cases(shared: Path, environment: str) -> None:
    cases = json.loads((shared / "goldens" / "action_parsing.json").read_text())[environment]
    assert len(cases) == 10
    for case in cases:
        assert PARSE[environment](case["response"]) == (case["action"], case["valid"])


@pytest.mark.parametrize("environment", ["alfworld", "webshop", "searchqa"])
def test_replay_recognises_parsing_cases(shared: Path, environment: str) -> None:
    report = replay(shared / "goldens" / "action_parsing.json", environment, Path())
    assert report.lines() == ["10 checked, 0 mismatches"]


def test_a_closing_tag_before_the_opening_one_leaves_nothing() -> None:
    response = "<think>a</think></action>go to desk 1<action>"
    assert PARSE["alfworld"](response) == ParsedAction("", True)


def test_the_tail_stands_for_a_missing_action() -> None:
    response = "<think>x</think> I would GO to the big Drawer number 12"
    assert PARSE["alfworld"](response) == (response.lower()[-30:], False)
    assert PARSE["webshop"](response) == (response.lower()[-20:], False)


def test_search_ignores_what_follows_the_first_closing_tag() -> None:
    response = "<answer>b</answer><search>a</search>"
    assert PARSE["search"](response) == ("<search>a</search>", False)
    assert PARSE["search"]("</search><answer>b</answer>") == ("", False)
