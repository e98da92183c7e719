"""The prompt of a turn: question, what was searched and found, and what may be done."""

from collections.abc import Sequence

from sdar.environments.base import Moment, PastTurn, Task
from sdar.environments.searchqa.engine.environment import ANSWER_ACTION, SEARCH_ACTION, information
from sdar.environments.searchqa.prompt import MAY_SEARCH, MUST_ANSWER, build_messages

BOTH = (SEARCH_ACTION, ANSWER_ACTION)


TASK = Task("1", "train", "direct", "Who?", "")


def content(
    history: Sequence[PastTurn], observation: str, actions: tuple[str, ...], index: int
) -> str:
    messages = build_messages(Moment(TASK, tuple(history), observation, actions, index))
    assert [message["role"] for message in messages] == ["user"]
    return messages[0]["content"]


def test_the_first_turn() -> None:
    assert content([], "", BOTH, 0) == f"Question: Who?\n{MAY_SEARCH}"


def test_each_search_is_followed_by_what_it_found() -> None:
    history = [
        PastTurn("", "<search>first</search>"),
        PastTurn(information("Doc 1: one\n"), "<search>second</search>"),
    ]
    lines = content(history, information("Doc 1: two\n"), BOTH, 2).split("\n")
    assert lines[1:5] == [
        "You searched: first",
        "Found: Doc 1: one",
        "You searched: second",
        "Found: Doc 1: two",
    ]
    assert lines[5] == MAY_SEARCH


def test_a_cut_window_keeps_pairs_together() -> None:
    # The first search has left the window: what it found goes with it.
    window = [PastTurn(information("old"), "<search>second</search>")]
    text = content(window, information("new"), BOTH, 2)
    assert "old" not in text
    assert "You searched: second\nFound: new" in text


def test_without_a_window_the_last_find_is_still_shown() -> None:
    assert "Found: new" in content([], information("new"), BOTH, 2)


def test_the_last_turn_asks_for_an_answer() -> None:
    text = content([], information("x"), (ANSWER_ACTION,), 3)
    assert text.endswith(MUST_ANSWER)
    assert "<search>" not in text


def test_a_turn_without_a_search_is_told() -> None:
    text = content([PastTurn("", "")], information("Nothing was done."), BOTH, 1)
    assert "You did not search.\nFound: Nothing was done." in text


def test_found_text_is_unescaped() -> None:
    found = information('Doc 1: "São"\nDrei\\vier\n')
    assert 'Found: Doc 1: "São"\nDrei\\vier' in content([], found, BOTH, 1)


def test_the_skill_is_the_system_message() -> None:
    messages = build_messages(Moment(TASK, (), "", BOTH, 0), "Search twice.")
    assert messages[0] == {"role": "system", "content": "Search twice."}
    assert messages[1]["content"].startswith("Question: Who?")
