"""Every environment's prompt, word for word: what a policy is shown may not change unnoticed."""

from dataclasses import replace
from itertools import takewhile

import pytest

from sdar.environments.alfworld.prompt import build_messages as alfworld
from sdar.environments.base import Moment, Observation, PastTurn, Task
from sdar.environments.common import ActionListPackage
from sdar.environments.searchqa.engine.environment import ANSWER_ACTION, SEARCH_ACTION, information
from sdar.environments.searchqa.prompt import MUST_ANSWER
from sdar.environments.searchqa.prompt import build_messages as searchqa
from sdar.environments.webshop.prompt import build_messages as webshop

ROOM = (
    "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. You see a desk 1.\n\n"
    "Your task is to: put a mug in desk."
)
SHOP = "WebShop [SEP] Instruction: [SEP] red mug under $10 [SEP] Search"
FORM = (
    "First reason inside <think></think>, then give one of these actions inside <action></action>."
)
SEARCH_FORM = (
    "First reason inside <think></think>, then either search with <search>query</search> or, once "
    "you know it, give the answer alone with <answer>answer</answer>."
)


def moment(
    instruction: str, past: list[tuple[str, str]], observation: str, actions: tuple[str, ...]
) -> Moment:
    task = Task("1", "train", "a type", instruction, "")
    history = tuple(PastTurn(seen, done) for seen, done in past)
    return Moment(task, history, observation, actions, len(history))


CASES = {
    "alfworld": (
        alfworld,
        moment(
            "put a mug in desk.",
            [(ROOM, "go to desk 1"), ("On the desk 1, you see a mug 1.", "take mug 1")],
            "You pick up the mug 1.",
            ("look", "put mug 1 in/on desk 1"),
        ),
        "You are an agent in a house. Your task is to: put a mug in desk.\n"
        "You have taken 2 actions.\n"
        "You saw: You are in the middle of a room. You see a desk 1. You did: go to desk 1\n"
        "You saw: On the desk 1, you see a mug 1. You did: take mug 1\n"
        "Now, at turn 3, you see: You pick up the mug 1.\n"
        f"You can: ['look', 'put mug 1 in/on desk 1']\n{FORM}",
    ),
    "alfworld, first turn": (
        alfworld,
        moment("put a mug in desk.", [], ROOM, ("look", "go to desk 1")),
        "You are an agent in a house. Your task is to: put a mug in desk.\n"
        "You have taken 0 actions.\n"
        "Now, at turn 1, you see: You are in the middle of a room. You see a desk 1.\n"
        f"You can: ['look', 'go to desk 1']\n{FORM}",
    ),
    "webshop": (
        webshop,
        moment(
            "red mug under $10",
            [(SHOP, "search[red mug]")],
            "Instruction: [SEP] red mug under $10 [SEP] Back to Search [SEP] B01 [SEP] A red mug",
            ("click[back to search]", "click[b01]"),
        ),
        "You are an agent in a shop. Your task is to: red mug under $10\n"
        "You saw: 'Search'\nYou did: search[red mug]\n"
        "Now you see: 'Back to Search', 'B01', 'A red mug'\n"
        f"You can: ['click[back to search]', 'click[b01]']\n{FORM}",
    ),
    "webshop, first turn": (
        webshop,
        moment("red mug under $10", [], SHOP, ("search[<your query>]",)),
        "You are an agent in a shop. Your task is to: red mug under $10\n"
        f"Now you see: 'Search'\nYou can: ['search[<your query>]']\n{FORM}",
    ),
    "searchqa": (
        searchqa,
        moment(
            "Who?",
            [("", "<search>first</search>"), (information("Doc 1: one\n"), "<search>2</search>")],
            information("Doc 1: two\n"),
            (SEARCH_ACTION, ANSWER_ACTION),
        ),
        "Question: Who?\nYou searched: first\nFound: Doc 1: one\n"
        f"You searched: 2\nFound: Doc 1: two\n{SEARCH_FORM}",
    ),
    "searchqa, first turn": (
        searchqa,
        moment("Who?", [], "", (SEARCH_ACTION, ANSWER_ACTION)),
        f"Question: Who?\n{SEARCH_FORM}",
    ),
    "any list of actions": (
        ActionListPackage().build_messages,
        moment(
            "Your task is to cook.", [("A kitchen.", "look around")], "A stove.", ("cook", "eat")
        ),
        "Your task is to cook. You have taken 1 actions.\n"
        "You saw: A kitchen. You did: look around\nNow you see: A stove.\n"
        f"You can: 'cook', 'eat'\n{FORM}",
    ),
}


AHEAD = (
    "First reason inside <think></think>, then give one of the actions that you can take inside "
    "<action></action>."
)
PREFIX_CASES = {
    "alfworld": "You are an agent in a house. "
    f"{AHEAD}\nYour task is to: put a mug in desk.\n"
    "You see: You are in the middle of a room. You see a desk 1.\nYou do: go to desk 1\n"
    "You see: On the desk 1, you see a mug 1.\nYou do: take mug 1\n"
    "You see: You pick up the mug 1.\nYou can: ['look', 'put mug 1 in/on desk 1']\n"
    "You have taken 2 actions: now is turn 3.",
    "webshop": f"You are an agent in a shop. {AHEAD}\nYour task is to: red mug under $10\n"
    "You see: 'Search'\nYou do: search[red mug]\n"
    "You see: 'Back to Search', 'B01', 'A red mug'\n"
    "You can: ['click[back to search]', 'click[b01]']",
    "searchqa": f"{SEARCH_FORM}\nQuestion: Who?\nYou searched: first\nFound: Doc 1: one\n"
    "You searched: 2\nFound: Doc 1: two",
    "any list of actions": f"{AHEAD}\nYour task is to cook.\nYou see: A kitchen.\n"
    "You do: look around\nYou see: A stove.\nYou can: 'cook', 'eat'\n"
    "You have taken 1 actions.",
}


@pytest.mark.parametrize("case", PREFIX_CASES)
def test_the_prefix_layout_says_the_same_in_another_order(case: str) -> None:
    build, shown, _ = CASES[case]
    shown = replace(shown, layout="prefix")
    student = [{"role": "user", "content": PREFIX_CASES[case]}]
    assert build(shown) == student
    assert build(shown, "Look first.") == [{"role": "system", "content": "Look first."}, *student]
    assert build(shown.without_oldest(1))[0]["content"].startswith(PREFIX_CASES[case][:90])


@pytest.mark.parametrize("case", ["alfworld", "webshop", "any list of actions"])
def test_a_turn_s_prompt_goes_on_where_the_one_before_had_its_observation(case: str) -> None:
    """While the window holds all turns. In the paper's layout they part much earlier."""
    build, shown, _ = CASES[case]
    shared = {}
    for layout in ("paper", "prefix"):
        now = replace(shown, layout=layout)
        last = now.history[-1]
        before = replace(
            now, history=now.history[:-1], observation=last.observation, index=now.index - 1
        )
        texts = [build(each)[0]["content"] for each in (before, now)]
        pairs = takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False))
        shared[layout] = "".join(character for character, _ in pairs)
    # Up to "You can: ..." here and "You do: ..." there, so with all of the observation.
    assert shared["prefix"] == texts[0].partition("can: ")[0]
    assert len(shared["prefix"]) > len(shared["paper"])


def test_of_a_last_turn_without_searches_only_the_end_is_its_own() -> None:
    _, shown, _ = CASES["searchqa"]
    shown = replace(shown, layout="prefix")
    left = searchqa(shown)[0]["content"]
    none = searchqa(replace(shown, admissible_actions=(ANSWER_ACTION,)))[0]["content"]
    assert none == f"{left}\n{MUST_ANSWER}"


@pytest.mark.parametrize("case", CASES)
def test_a_moment_becomes_these_words(case: str) -> None:
    build, shown, text = CASES[case]
    student = [{"role": "user", "content": text}]
    assert build(shown) == build(shown, "") == student
    assert build(shown, "Look first.") == [{"role": "system", "content": "Look first."}, *student]


def test_a_moment_shows_the_last_turns_and_counts_all() -> None:
    task, last = (
        Task("1", "train", "a type", "Go.", ""),
        Observation("A door.", ("open",), False, False),
    )
    past = [PastTurn(f"Room {number}.", "go on") for number in range(5)]
    seen = Moment.after(past, task, last, window=2)
    assert (seen.index, seen.observation, seen.admissible_actions) == (5, "A door.", ("open",))
    assert seen.history == tuple(past[3:])
    assert seen.without_oldest(1).history == tuple(past[4:])
    assert Moment.after(past, task, last, window=0).history == ()
    assert Moment.after(past, task, last, window=9).history == tuple(past)
    assert Moment.after([], task, last, window=2).history == ()
