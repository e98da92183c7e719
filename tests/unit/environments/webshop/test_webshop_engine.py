"""Pages and clicks where the recorded transcripts do not reach, and actions of any form."""

import re
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webshop_catalogue import INS, ITEMS, catalogue, options, product

from sdar.environments.base import Moment, PastTurn
from sdar.environments.webshop.engine.actions import read_action
from sdar.environments.webshop.engine.environment import (
    SEARCH_ACTION,
    ShopSession,
    WebshopEnvironment,
)
from sdar.environments.webshop.engine.goals import Goal, goal_task
from sdar.environments.webshop.prompt import LONGEST, build_messages, page_parts
from sdar.errors import SdarError

CATALOGUE = catalogue()
GOAL = CATALOGUE.goals[0]


def shop(*actions: str, mode="text", **changes) -> tuple[ShopSession, list]:
    """The shop after the actions, and what each showed."""
    stock = catalogue(**changes) if changes else CATALOGUE
    played = ShopSession(stock, mode)
    states = [played.reset(stock.goals[0])]
    return played, states + [played.step(action) for action in actions]


@given(st.text(alphabet="ab[]\n ", max_size=14))
def test_actions_are_read_as_the_pattern_reads_them(text: str) -> None:
    match = re.match(r"(.+)\[(.+)\]", text)
    expected = (match[1], match[2].lower()) if match else (text, None)
    assert read_action(text) == expected


@pytest.mark.parametrize("text", ["[" * 10**6, "a[" * 500_000 + "]", "click[" + "]" * 10**6])
def test_a_megabyte_of_brackets_is_read_in_little_time(text: str) -> None:
    start = time.process_time()
    read_action(text)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    "action",
    [
        "search[]",
        "click[search]",
        "click[]",
        "click[[red]]",
        "search[x [shirt]]",
        "search[[shirt] x]",
        "search",
        "",
        "[x]",
        "SEARCH[shirt]",
        "click [b000000001]",
        "search[\n]",
        "click[b000000001]",
        "click[buy now]",
        "click[" + "x" * 10**6 + "]",
    ],
)
def test_what_is_not_offered_changes_nothing(action: str) -> None:
    _, (first, after) = shop(action)
    assert after == first
    assert (after.reward, after.done) == (0, False)


def test_a_whole_purchase_through_the_environment() -> None:
    environment = WebshopEnvironment(CATALOGUE)
    seen = environment.reset(goal_task(GOAL, "train"))
    assert seen.admissible_actions == (SEARCH_ACTION,)
    assert (seen.won, seen.done, seen.score) == (False, False, None)
    seen = environment.step("search[cotton shirt]")
    assert seen.admissible_actions[:3] == (
        *("click[back to search]", "click[next >]", "click[b000000001]"),
    )
    for action in ("click[B000000001]", "click[red]", "click[x-large]", "click[small]"):
        seen = environment.step(action)
        assert seen.score is None
    seen = environment.step("click[buy now]")
    assert (seen.won, seen.done, seen.score) == (True, True, 1.0)
    assert seen.admissible_actions == ()
    assert environment.step("search[shirt]") == seen
    assert environment.shop.purchase is not None
    assert environment.reset(goal_task(GOAL, "train")).text.startswith("WebShop [SEP] Instruction:")
    environment.close()


def test_a_poor_purchase_is_scored_but_not_won() -> None:
    environment = WebshopEnvironment(CATALOGUE)
    environment.reset(goal_task(GOAL, "train"))
    for action in ("search[cotton shirt]", "click[b000000001]", "click[buy now]"):
        seen = environment.step(action)
    assert (seen.won, seen.done, seen.score) == (False, True, 0.5)


def test_tasks_and_goals_without_a_product_are_refused() -> None:
    task = goal_task(GOAL, "train")
    other = catalogue(items=ITEMS[1:])
    with pytest.raises(SdarError, match="not in the catalogue"):
        WebshopEnvironment(other).reset(task)
    with pytest.raises(SdarError, match="not in the catalogue"):
        ShopSession(other).reset(GOAL)


def test_episodes_do_not_see_each_other() -> None:
    one, two = ShopSession(CATALOGUE, "text_rich"), ShopSession(CATALOGUE, "text_rich")
    actions = ["search[shirt]", "click[b000000001]", "click[red]", "click[< prev]"]
    one.reset(GOAL)
    alone = [one.step(action) for action in actions]
    one.reset(GOAL)
    two.reset(CATALOGUE.goals[4])
    mixed = []
    for action, other in zip(actions, reversed(actions), strict=True):
        mixed.append(one.step(action))
        two.step(other)
    assert mixed == alone


def test_options_are_dropped_by_a_search_and_kept_on_sub_pages() -> None:
    played, states = shop(
        *("search[cotton]", "click[b000000001]", "click[red]", "click[description]"),
        *("click[< prev]", "click[small]", "click[buy now]"),
    )
    assert played.purchase.reward == 1.0
    assert states[4].clickables == ("back to search", "< prev")
    played, _ = shop(
        *("search[cotton]", "click[b000000001]", "click[red]", "click[< prev]"),
        *("click[b000000001]", "click[small]", "click[buy now]"),
    )
    assert played.purchase.r_option == 0.5


def test_back_to_search_forgets_what_was_visited_but_a_search_does_not() -> None:
    path = ("search[cotton]", "click[b000000001]", "search[cotton]")
    _, states = shop(*path, "click[back to search]", "search[cotton]", mode="text_rich")
    assert "[clicked button] B000000001 [clicked button_]" in states[3].observation
    assert "[clicked button]" not in states[5].observation


def test_pages_after_the_last_are_empty_and_lead_back() -> None:
    _, states = shop("search[cotton]", "click[next >]", "click[next >]", "click[< prev]")
    assert "Page 3 (Total results: 1)" in states[3].observation
    assert states[3].clickables == ("back to search", "< prev", "next >")
    assert states[4] == states[2]


def odd(**changes) -> dict:
    return {"items": [product("B000000001", "Odd") | changes], "ins": INS}


def test_a_value_of_two_options_belongs_to_the_later() -> None:
    _, states = shop(
        *("search[odd]", "click[b000000001]", "click[red]", "click[buy now]"),
        **odd(customization_options=options(frame=["red"], seat=["blue", "red"])),
    )
    assert states[2].clickables[-2:] == ("red", "blue")
    assert '[SEP] {"seat": "red"} [SEP]' in states[4].observation


def test_a_value_named_like_a_button_is_the_button() -> None:
    _, states = shop(
        *("search[odd]", "click[b000000001]", "click[buy now]"),
        **odd(customization_options=options(size=["Buy Now", "next >"])),
    )
    assert states[2].clickables.count("buy now") == 1
    assert states[3].done
    _, states = shop(
        *("search[odd]", "click[b000000001]", "click[next >]", "click[buy now]"),
        **odd(customization_options=options(size=["Buy Now", "next >"])),
    )
    assert '{"size": "next \\u003e"}' in states[4].observation


def test_markup_and_control_characters_are_shown_as_they_are() -> None:
    name = '<b>Bold</b> &amp; "x" \x07\u202e [SEP]'
    _, states = shop("search[bold]", "click[b000000001]", **odd(name=name))
    assert f"[SEP] B000000001 [SEP] {name} [SEP]" in states[1].observation
    assert states[2].clickables[-1] == "buy now"


def test_blank_texts_leave_what_the_original_leaves() -> None:
    record = odd(full_description="", small_description=["a", "", " \n"])
    _, states = shop(
        *("search[odd]", "click[b000000001]", "click[description]", "click[< prev]"),
        *("click[features]", "click[< prev]", "click[reviews]"),
        **record,
    )
    assert states[3].observation.endswith("< Prev")
    assert states[5].observation.endswith("< Prev [SEP] a [SEP] ")
    assert states[7].observation.endswith("< Prev")


def test_rich_pages_mark_the_same_value_under_two_names_and_no_quotes() -> None:
    _, states = shop(
        *("search[odd]", "click[b000000001]", 'click[5"]', "click[red]", "click[größe]"),
        mode="text_rich",
        **odd(customization_options=options(a=["red"], b=["red"], c=['5"'], d=["Größe"])),
    )
    assert "clicked" not in states[3].observation
    assert states[4].observation.count("You have clicked red.") == 2
    assert states[5].observation == states[4].observation


def test_a_megabyte_of_a_search_is_answered_in_little_time() -> None:
    start = time.process_time()
    _, states = shop(f"search[{'cotton shirt ' * 80_000}]", "click[b000000001]", mode="text_rich")
    assert time.process_time() - start < 2
    assert len(states[1].observation) < 1000


def test_prices_given_for_an_episode_replace_the_catalogues() -> None:
    played = ShopSession(CATALOGUE)
    played.reset(GOAL, {"B000000001": GOAL.price_upper + 1})
    for action in ("search[cotton]", "click[b000000001]", "click[buy now]"):
        played.step(action)
    assert played.purchase.r_price is False


def test_prompt_quotes_what_follows_the_instruction() -> None:
    environment = WebshopEnvironment(CATALOGUE)
    task = goal_task(GOAL, "train")
    first = environment.reset(task)
    second = environment.step("search[cotton]")
    past = PastTurn(first.text, "search[cotton]")
    (message,) = build_messages(Moment(task, (past,), second.text, second.admissible_actions, 1))
    text = message["content"]
    assert text.count(task.instruction) == 1
    assert "You saw: 'Search'\nYou did: search[cotton]\nNow you see: 'Back to Search', " in text
    assert "'click[next >]', 'click[b000000001]']" in text
    with_skill = build_messages(Moment(task, (), "x", (), 0), skill="Look first.")
    assert with_skill[0] == {"role": "system", "content": "Look first."}


def test_a_long_prompt_is_written_without_its_history() -> None:
    task = replace(goal_task(GOAL, "train"), instruction="buy")
    history = (PastTurn("Instruction: [SEP] buy [SEP] " + "x" * LONGEST, "search[x]"),)
    moment = Moment(task, history, "Instruction: [SEP] buy [SEP] Search", (), 1)
    text = build_messages(moment)[0]["content"]
    assert len(text) < 400
    assert "You saw" not in text
    assert text == build_messages(Moment(task, (), "buy [SEP] Search", (), 1))[0]["content"]


def test_page_parts_of_rich_pages_keep_what_was_clicked() -> None:
    _, states = shop("search[cotton]", "click[b000000001]", "click[red]", mode="text_rich")
    parts = page_parts(states[3].observation, GOAL.instruction_text)
    assert parts[:2] == ["You have clicked red.", "[button] Back to Search [button_]"]
    assert page_parts("Thank you", "buy") == ["Thank you"]


def test_goal_records_round_trip() -> None:
    record = {name: getattr(GOAL, name) for name in Goal.__slots__}
    assert Goal.from_record(record).instruction_text == GOAL.instruction_text
