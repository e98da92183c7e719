"""The reward's parts, each at its corners."""

from dataclasses import replace

import pytest
from webshop_catalogue import catalogue, options, product

from sdar.environments.webshop.engine.colours import COLOURS, first_colour
from sdar.environments.webshop.engine.goals import Goal, synthetic_goal
from sdar.environments.webshop.engine.products import make_product
from sdar.environments.webshop.engine.reward import (
    purchase_reward,
    shared_nouns,
    similar,
    type_reward,
)

SHOP = catalogue()
SHIRT = SHOP.by_asin("B000000001")
GOAL = SHOP.goals[0]


def reward(goal: Goal = GOAL, **options: str):
    return purchase_reward(SHIRT, goal, SHOP.by_asin(goal.asin).nouns, options, SHIRT.price)


def test_the_right_purchase_earns_one() -> None:
    earned = reward(color="red", size="small")
    assert earned.reward == 1.0
    assert (earned.r_type, earned.r_att, earned.r_option, earned.r_price) == (1, 1, 1, True)


def test_each_miss_costs_its_share() -> None:
    # One attribute, two options and the price: four parts.
    assert reward(color="red").reward == 3 / 4
    assert reward().reward == 2 / 4
    assert reward(replace(GOAL, price_upper=5.0), color="red", size="small").reward == 3 / 4
    assert reward(replace(GOAL, attributes=("wool",)), color="red", size="small").reward == 3 / 4


def test_a_blank_attribute_or_option_is_none() -> None:
    """ "" is in every text, so it would be met by any purchase, and no page offers "" to click."""
    one = product(
        "B000000009", "Cotton Shirt", customization_options=options(Color=["Red", " "], Fit=[""])
    )
    about = {
        "attributes": ["", "machine wash"],
        "instruction": "Find me shirts",
        "instruction_attributes": ["wool", " ", ""],
    }
    human = [{"instruction": "x", "instruction_attributes": [" "], "instruction_options": [""]}]
    made = make_product(one, about, human, (), 0)
    assert made.attributes == ("machine wash",)
    assert made.instruction_attributes == ("wool",)
    assert made.options == {"color": ("red",)}
    assert (made.human[0].attributes, made.human[0].options) == ((), ())
    assert synthetic_goal(made, 0, 0, 1.0).attributes == ("wool",)
    for empty in ("", " ", "\u2605"):
        assert not similar(empty, empty)


def test_a_goal_without_options_has_no_option_part() -> None:
    earned = reward(replace(GOAL, goal_options={}), color="red")
    assert earned.r_option is None
    assert earned.reward == 1.0


def test_a_chosen_value_meets_a_wish_that_contains_its_words() -> None:
    wish = replace(GOAL, goal_options={"size": "x-large"})
    assert reward(wish, size="large").r_option == 1
    assert reward(replace(GOAL, goal_options=("x-large",)), size="x").r_option == 1
    assert reward(wish, size="small").r_option == 0


def test_colours_are_compared_by_the_first_of_the_list() -> None:
    assert first_colour("washed linen") == "ash"
    assert first_colour("dark red") == "dark"
    assert first_colour("plaid") == "plaid"
    assert list(COLOURS) == sorted(COLOURS)
    # A chosen value becomes its colour; a pair only where one of its texts is exactly a colour.
    assert reward(replace(GOAL, goal_options={"color": "red"}), color="bright red").r_option == 1
    assert reward(replace(GOAL, goal_options={"color": "plaid"}), color="plaid red").r_option == 0
    assert reward(replace(GOAL, goal_options=("bright red",)), color="red").r_option == 1


def test_attributes_may_be_listed_or_said() -> None:
    for text in ("machine washable", "cotton shirt", "every day", "imported", "blend of cotton"):
        assert reward(replace(GOAL, attributes=(text,))).r_att == 1, text
    assert reward(replace(GOAL, attributes=("silk",))).r_att == 0


def test_kind_of_product() -> None:
    assert shared_nouns(["a", "b", "b"], ["b", "b", "c", "a"]) == 2 / 4
    assert shared_nouns(["a"], []) == 0.2
    assert [type_reward(True, score) for score in (0, 0.05, 0.1, 1)] == [0, 0.1, 1, 1]
    assert [type_reward(False, score) for score in (0, 0.05, 0.1, 0.2, 0.21)] == [
        *(0, 0.1, 0.5, 0.5, 1)
    ]


def test_category_matches_by_two_parts_and_query_by_all() -> None:
    earned = reward(replace(GOAL, query="hats", product_category="Men › Clothing › Hats"))
    assert (earned.query_match, earned.category_match) == (False, True)
    earned = reward(replace(GOAL, product_category="Clothing"))
    assert (earned.query_match, earned.category_match) == (True, False)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("non slip", "slip non", True),
        ("Non-Slip!", "non slip sole", True),
        ("café", "caf", True),  # characters 128-255 are dropped, as thefuzz does
        ("high heel", "low heel", False),
        ("", "", False),
        ("½", "red", False),
    ],
)
def test_similar_texts(one: str, other: str, same: bool) -> None:
    assert similar(one, other) is same
