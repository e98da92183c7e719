"""SQuAD's normalisation and the two matches, as properties."""

import re
import string
import time

from hypothesis import given
from hypothesis import strategies as st

from sdar.environments.searchqa.engine.scoring import (
    exact_match,
    is_right,
    last_answer,
    normalize_answer,
    substring_match,
)

TEXT = st.text(max_size=40)
INSIDE = TEXT.filter(lambda text: "<answer>" not in text and "</answer>" not in text)


@given(TEXT)
def test_normalised_text_has_no_punctuation_and_single_spaces(text: str) -> None:
    normal = normalize_answer(text)
    assert not set(normal) & set(string.punctuation)
    assert normal == " ".join(normal.split())
    assert not re.search(r"\b(a|an|the)\b", normal)


@given(INSIDE, st.lists(INSIDE, min_size=1, max_size=3))
def test_exact_match_implies_substring_match(answer: str, targets: list[str]) -> None:
    text = f"<answer>{answer}</answer>"
    if exact_match(text, targets):
        assert substring_match(text, targets)
    assert exact_match(text, [*targets, answer]) == bool(answer.strip())


@given(INSIDE, INSIDE)
def test_the_last_answer_counts(first: str, last: str) -> None:
    text = f"<answer>{first}</answer> and <answer>{last}</answer>"
    assert last_answer(text) == last.strip()


def test_normalisation_by_hand() -> None:
    assert normalize_answer(" The  U.S.A.'s\tan Apple ") == "usas apple"
    assert normalize_answer("another theatre") == "another theatre"
    assert normalize_answer("A-ha") == "aha"
    assert normalize_answer("São") != normalize_answer("Sao")


@given(st.lists(st.sampled_from(["<answer>", "</answer>", "a", " "]), max_size=12))
def test_blocks_are_found_as_by_a_regular_expression(pieces: list[str]) -> None:
    text = "".join(pieces)
    blocks = re.findall("<answer>(.*?)</answer>", text)
    assert last_answer(text) == (blocks[-1].strip() if blocks else None)


NOTHING_LEFT = ("A", "The The", "the", "...", "?!", "an", "'", "a-", "The A!")


def test_of_a_target_that_normalises_to_nothing_only_its_own_text_counts() -> None:
    for target in NOTHING_LEFT:
        assert not normalize_answer(target)
        for answer in (*NOTHING_LEFT, "", " ", "\t", "x", "Paris", "a a", "_", "THE"):
            assert is_right(answer, [target]) == (answer == target), (answer, target)
        assert is_right(f" {target}\n", [target])
        assert is_right("Paris", [target, "paris"])


def test_an_article_is_no_reward() -> None:
    for right in (exact_match, substring_match):
        assert not right("<answer>the</answer>", ["A"])
        assert right("<answer>A</answer>", ["A"])
        for empty in ("<answer></answer>", "<answer> \n</answer>"):
            assert not right(empty, ["A"])
            assert not right(empty, [""])
            assert not right(empty, ["the", "..."])


def test_no_target_and_a_single_text() -> None:
    assert not exact_match("<answer>x</answer>", [])
    assert not exact_match("<answer>p</answer>", "paris")
    assert exact_match("<answer>Paris</answer>", "paris")


def test_punctuation_that_is_not_ascii_is_text() -> None:
    for target in ("\u3002", "\u300a\u300b", "\u00bf", "\u6771\u4eac"):
        assert is_right(target, [target])
        assert not is_right("the", [target])
        assert not is_right("", [target])


@given(TEXT, st.lists(TEXT, max_size=3))
def test_nothing_is_right_that_says_nothing(answer: str, targets: list[str]) -> None:
    if not answer.strip():
        assert not is_right(answer, targets)
    if is_right(answer, targets):
        assert exact_match(f"<answer>{answer}</answer>", targets) or "<answer>" in answer


def test_no_block_is_no_answer() -> None:
    for text in ("", "Paris", "<answer>Paris", "Paris</answer>", "<ANSWER>Paris</ANSWER>"):
        assert last_answer(text) is None
        assert not exact_match(text, ["Paris", ""])
        assert not substring_match(text, ["Paris", ""])


def test_a_megabyte_is_scored_in_no_time() -> None:
    text = "<answer>" * 20_000 + "x" * 1_000_000
    start = time.process_time()
    assert not exact_match(text, ["x"])
    assert exact_match(text + "</answer><answer>x</answer>", ["x"])
    assert time.process_time() - start < 2.0
