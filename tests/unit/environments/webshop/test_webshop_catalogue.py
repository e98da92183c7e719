"""Products, prices, goals and their splits."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from webshop_catalogue import HUMAN, INS, ITEMS, catalogue, options, product

from sdar.environments.webshop.engine import products
from sdar.environments.webshop.engine.catalogue import Catalogue
from sdar.environments.webshop.engine.goals import (
    UPSTREAM_TEST,
    Goal,
    goal_task,
    split_by_product,
    split_upstream,
)
from sdar.environments.webshop.engine.prices import (
    NO_CEILING,
    ceiling_text,
    parse_prices,
    price_ceiling,
    price_tag,
    reward_price,
)
from sdar.errors import SdarError


@pytest.mark.parametrize(
    ("pricing", "prices", "tag"),
    [
        ("", (100.0,), "$100.0"),
        ("$12.98", (12.98,), "$12.98"),
        ("$19.99$27.99", (19.99, 27.99), "$19.99 to $27.99"),
        ("$1,299.00", (1299.0,), "$1299.0"),
        ("$1$2$3", (1.0, 2.0), "$1.0 to $2.0"),
    ],
)
def test_price_strings(pricing: str, prices: tuple[float, ...], tag: str) -> None:
    assert parse_prices(pricing) == prices
    assert price_tag(prices) == tag


def test_price_of_a_range_lies_in_it_and_is_the_seeds() -> None:
    drawn = [reward_price((10.0, 20.0), seed, "B000000001") for seed in range(50)]
    assert all(10 <= price <= 20 for price in drawn)
    assert len(set(drawn)) == 50
    assert drawn == [reward_price((10.0, 20.0), seed, "B000000001") for seed in range(50)]


def test_ceilings_are_the_larger_of_two_of_the_next_four_tens() -> None:
    drawn = [price_ceiling(15.0, seed, "x") for seed in range(300)]
    assert set(drawn) == {30.0, 40.0, 50.0}
    assert drawn.count(50.0) > drawn.count(40.0) > drawn.count(30.0)
    assert {price_ceiling(975.0, seed, "x") for seed in range(20)} == {990.0}
    assert price_ceiling(980.0, 0, "x") == NO_CEILING
    assert ceiling_text(NO_CEILING) == ""
    assert ceiling_text(50.0) == ", and price lower than 50.00 dollars"


def test_products_are_read_as_the_pages_show_them() -> None:
    shop = catalogue()
    shirt = shop.by_asin("B000000001")
    assert shirt.options == {"color": ("red", "navy  |  white"), "size": ("small", "x-large")}
    assert shirt.query == "shirts"
    assert shirt.nouns == ("cotton", "shirt")
    assert shop.by_asin("B000000003").price == 100.0
    assert shop.by_asin("B000000002").price_text == "$19.99 to $27.99"
    one_text = catalogue(items=[product("B1", "Hat", small_description="warm")])
    assert one_text.product(0).bullets == ("warm",)


def test_synthetic_goals_are_all_combinations_with_sorted_names() -> None:
    goals = list(catalogue().goals)
    assert [goal.id for goal in goals] == [*(f"B000000001-{n}" for n in range(4)), "B000000002-0"]
    assert [tuple(goal.goal_options.values()) for goal in goals[:4]] == [
        ("red", "small"),
        ("red", "x-large"),
        ("navy  |  white", "small"),
        ("navy  |  white", "x-large"),
    ]
    text = goals[1].instruction_text
    assert text.startswith("Find me machine wash shirts with color: red, and size: x-large, and ")
    assert text.endswith(f"price lower than {goals[1].price_upper:.2f} dollars")
    # Five goals ask for it.
    assert {goal.weight for goal in goals} == {0.2}


def test_human_goals_are_those_with_attributes() -> None:
    shop = catalogue(human_goals=True)
    (goal,) = shop.goals
    assert goal.id == "B000000003-h0"
    assert goal.instruction_text.startswith("i want warm socks, and price lower than ")
    assert goal.goal_options == ("grey",)
    assert goal.weight == 1
    assert shop.goal("B000000003-h0") == goal


def test_goals_and_prices_do_not_depend_on_other_products() -> None:
    few, more = (
        catalogue(seed=5),
        catalogue(
            items=[
                product("B9", "Red Hat", pricing="$1$90"),
                *reversed(ITEMS),
                product("A1", "Cap"),
            ],
            ins=INS | {"B9": INS["B000000001"] | {"instruction": "Find me hats"}},
            seed=5,
        ),
    )
    for goal in few.goals:
        # The weight counts how common an attribute is among all goals.
        assert replace(more.goal(goal.id), weight=0) == replace(goal, weight=0)
    for item in ITEMS:
        assert more.by_asin(item["asin"]) == few.by_asin(item["asin"])


def test_another_seed_draws_other_prices_only() -> None:
    one, other = catalogue(seed=1), catalogue(seed=2)
    assert one.by_asin("B000000002").price != other.by_asin("B000000002").price
    assert replace(one.by_asin("B000000002"), price=0) == replace(
        other.by_asin("B000000002"), price=0
    )


def test_goals_are_a_sequence() -> None:
    goals = catalogue().goals
    assert goals[-1] == goals[4]
    assert goals[1:3] == [goals[1], goals[2]]
    with pytest.raises(IndexError):
        goals[5]


def test_upstream_split_is_one_shuffle() -> None:
    split = split_upstream(1200)
    assert len(split["test"]) == UPSTREAM_TEST
    assert sorted(split["train"] + split["test"]) == list(range(1200))
    expected = list(range(1200))
    random.Random(233).shuffle(expected)
    assert split["test"] == expected[:500]


def many(count: int) -> Catalogue:
    items = [
        product(
            f"B{n:04}",
            f"Shirt {n}",
            customization_options=options(size=[f"s{i}" for i in range(1 + 40 * (n == 3))]),
        )
        for n in range(count)
    ]
    about = {"attributes": [], "instruction": "Find me", "instruction_attributes": ["x"]}
    return catalogue(items=items, ins={item["asin"]: about for item in items})


def test_product_split_keeps_products_apart_and_spreads_them() -> None:
    goals = many(60).goals
    split = split_by_product(goals, seed=3)
    assert sorted(split["train"] + split["test"]) == list(range(len(goals)))
    sides = {name: [goals[i].asin for i in indices] for name, indices in split.items()}
    assert not set(sides["train"]) & set(sides["test"])
    assert 10 <= len(set(sides["test"])) <= 30
    for asins in sides.values():
        # One goal of every product before a second of any.
        distinct = len(set(asins))
        assert len(set(asins[:distinct])) == distinct
    assert split == split_by_product(goals, seed=3)
    assert split != split_by_product(goals, seed=4)


def test_product_split_of_a_product_does_not_depend_on_others() -> None:
    def sides(shop: Catalogue) -> dict[str, str]:
        split = split_by_product(shop.goals, seed=0)
        return {shop.goals[i].asin: name for name in split for i in split[name]}

    few, more = sides(many(30)), sides(many(60))
    assert few == {asin: more[asin] for asin in few}


def test_tasks_lead_back_to_their_goals() -> None:
    shop = catalogue()
    for goal in shop.goals:
        task = goal_task(goal, "test")
        assert (task.split, task.task_type) == ("test", "fashion")
        assert shop.goal(task.id.rpartition("/")[2]) == goal


@pytest.mark.parametrize("name", ["B000000001-4", "B000000009-0", "B000000001-h0", "x", "-", "B-²"])
def test_unknown_goals_are_refused(name: str) -> None:
    with pytest.raises(SdarError, match="not in the catalogue"):
        catalogue().goal(name)


def test_a_goal_record_without_a_key_is_refused() -> None:
    with pytest.raises(SdarError, match="goal_options"):
        Goal.from_record({"asin": "x"})


BROKEN = [
    ({"asin": None}, "asin is missing"),
    ({"asin": " "}, "asin is missing"),
    ({"name": 3}, "name is missing or no text"),
    ({"query": None}, "query is missing"),
    ({"small_description": 5}, "small_description"),
    ({"small_description": [None]}, "small_description"),
    ({"pricing": "$ten"}, "pricing"),
    ({"pricing": 12.5}, "pricing"),
    ({"customization_options": ["red"]}, "customization_options"),
    ({"customization_options": {"color": [{"image": ""}]}}, "customization_options"),
    ({"customization_options": {"color": [{"value": None}]}}, "customization_options"),
]


@pytest.mark.parametrize(("change", "told"), BROKEN)
def test_malformed_products_are_refused(change: dict, told: str) -> None:
    with pytest.raises(SdarError, match=told):
        catalogue(items=[product("B1", "Hat") | change])


def test_what_is_no_product_is_refused() -> None:
    with pytest.raises(SdarError, match="a product is an object"):
        catalogue(items=["B1"])
    record = product("B1", "Hat")
    del record["asin"]
    with pytest.raises(SdarError, match="asin is missing"):
        catalogue(items=[record])


@pytest.mark.parametrize(
    ("ins", "human", "told"),
    [
        ({"B1": []}, {}, "items_ins_v2"),
        ({"B1": {"attributes": "red"}}, {}, "attributes"),
        ({"B1": {"instruction": "Find me"}}, {}, "instruction_attributes"),
        ({}, {"B1": {}}, "items_human_ins"),
        ({}, {"B1": [{"instruction_attributes": []}]}, "human instruction"),
    ],
)
def test_malformed_instructions_are_refused(ins: dict, human: dict, told: str) -> None:
    with pytest.raises(SdarError, match=told):
        catalogue(items=[product("B1", "Hat")], ins=ins, human=human)


def test_repeated_and_strange_asins_are_left_out_as_in_the_original() -> None:
    items = [
        product("B1", "First"),
        product("B1", "Second"),
        product("nan", "None"),
        product("B0000000012", "Long"),
    ]
    shop = catalogue(items=items)
    assert [shop.product(place).name for place in range(len(shop))] == ["First"]
    with pytest.raises(SdarError, match="no product"):
        catalogue(items=items[2:])
    with pytest.raises(SdarError, match="no product"):
        catalogue(items=[])


def test_nouns_that_nothing_knows_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "spacy", None)
    record = product("B1", "Hat")
    del record["nouns"]
    with pytest.raises(SdarError, match=r"nouns\.json"):
        catalogue(items=[record])
    assert catalogue(items=[record], nouns={"B1": ["hat"]}).product(0).nouns == ("hat",)


def write(folder: Path, **files: object) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_a_folder_is_read_and_cached(tmp_path: Path) -> None:
    data = write(tmp_path, items_shuffle_4=ITEMS, items_ins_v2=INS, items_human_ins=HUMAN)
    cache = tmp_path / "cache"
    expected = catalogue()
    for shop in (Catalogue.open(data, 0), Catalogue.open(data, 0, cache=cache)):
        assert list(shop.goals) == list(expected.goals)
        assert [shop.product(n) for n in range(4)] == [expected.product(n) for n in range(4)]
    folders = list(cache.iterdir())
    write(tmp_path, items_shuffle_4=[*ITEMS, product("B5", "New Hat")])
    assert len(Catalogue.open(data, 0, cache=cache)) == 5
    assert len(list(cache.iterdir())) == len(folders) + 1


def test_big_files_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, items_shuffle=ITEMS)
    for size in (1, 7, 100):
        monkeypatch.setattr(products, "_CHUNK", size)
        assert list(products.stream_array(tmp_path / "items_shuffle.json")) == ITEMS


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "a JSON list"),
        ("{}", "a JSON list"),
        ("[{", "product 0 is broken"),
        (json.dumps(ITEMS)[:-9], "product 3 is broken"),
        ("[3]", "product 0"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "items_shuffle.json").write_text(text)
    with pytest.raises(SdarError, match=told):
        Catalogue.open(tmp_path, 0)


def test_missing_or_ambiguous_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SdarError, match="is no folder"):
        Catalogue.open(tmp_path / "nowhere", 0)
    with pytest.raises(SdarError, match=r"no items_shuffle\*"):
        Catalogue.open(tmp_path, 0)
    write(tmp_path, items_shuffle=ITEMS, items_ins_v2=[1])
    with pytest.raises(SdarError, match="keyed by asin"):
        Catalogue.open(tmp_path, 0)
    write(tmp_path, items_shuffle_1000=ITEMS, items_ins_v2=INS)
    with pytest.raises(SdarError, match="2 files"):
        Catalogue.open(tmp_path, 0)


def test_nouns_by_spacy() -> None:
    pytest.importorskip("spacy")
    record = product("B1", "Womens Cotton Blouse with Red Buttons")
    del record["nouns"]
    try:
        shop = catalogue(items=[record])
    except SdarError:
        pytest.skip("spaCy has no English model here")
    assert {"cotton", "blouse", "buttons"} <= set(shop.product(0).nouns)
    assert "with" not in shop.product(0).nouns
