"""Generated shops: what can be bought, what gives nothing away, and what is a function of what."""

import json
from itertools import permutations

import pytest

from sdar.environments.webshop.engine.catalogue import Catalogue
from sdar.environments.webshop.engine.reward import purchase_reward, similar
from sdar.environments.webshop.world.records import BLOCK, make_records
from sdar.environments.webshop.world.shop import Shop
from sdar.environments.webshop.world.words import WORDS, category_of_type
from sdar.errors import SdarError


@pytest.fixture(scope="module")
def shop():
    return Shop.draw(0)


@pytest.fixture(scope="module")
def catalogue(shop):
    records = make_records(shop, 300)
    return Catalogue.from_records(records.items, records.instructions, seed=0)


def bought(catalogue, goal, asin, options):
    product = catalogue.by_asin(asin)
    nouns = catalogue.by_asin(goal.asin).nouns
    return purchase_reward(product, goal, nouns, options, product.price).reward


def test_every_goal_is_worth_exactly_one(catalogue):
    assert len(catalogue.goals) == 900
    assert all(
        bought(catalogue, goal, goal.asin, goal.goal_options) == 1.0 for goal in catalogue.goals
    )


def test_another_line_type_finish_or_value_is_worth_less(catalogue):
    seen = set()
    for goal in catalogue.goals[::7]:
        kind, line, finish = goal.name.split()
        for place in range(len(catalogue)):
            product = catalogue.product(place)
            other_kind, other_line, other_finish = product.name.split()
            differs = (other_kind != kind, other_line != line, other_finish != finish)
            if product.category != goal.category or sum(differs) != 1:
                continue
            seen.add(differs)
            assert bought(catalogue, goal, product.asin, goal.goal_options) < 1.0
        (name,) = goal.goal_options
        for value in WORDS[goal.category].values:
            if value != goal.goal_options[name]:
                assert bought(catalogue, goal, goal.asin, {name: value}) < 1.0
    assert len(seen) == 3


def test_no_two_words_of_a_set_are_taken_for_the_same():
    for words in WORDS.values():
        assert len(words.lines) == len(words.properties)
        for one, other in permutations(
            words.properties + words.lines + words.finishes + words.types, 2
        ):
            assert one not in other
            assert not similar(one, other)


def test_every_type_word_names_one_category():
    types = [kind for words in WORDS.values() for kind in words.types]
    assert len(set(types)) == len(types)
    assert category_of_type("router") == "electronics"
    assert category_of_type("unicorn") is None


def test_every_type_comes_in_every_line_and_two_finishes(catalogue):
    made = {}
    for place in range(len(catalogue)):
        kind, line, finish = catalogue.product(place).name.split()
        made.setdefault(kind, set()).add((line, finish))
    assert len(made) == 300 // BLOCK
    for kind, combinations in made.items():
        assert {line for line, _ in combinations} == set(WORDS[category_of_type(kind)].lines)
        assert len({finish for _, finish in combinations}) == 2
        assert len(combinations) == 10


def test_a_goal_that_is_cheap_cannot_pay_for_the_dear_twin(catalogue):
    goals = {}
    for goal in catalogue.goals:
        goals.setdefault(goal.asin, goal)
    prices = {asin: catalogue.by_asin(asin).price for asin in goals}
    cheap = [asin for asin, price in prices.items() if price < 50]
    dear = [asin for asin, price in prices.items() if price > 50]
    assert cheap
    assert dear
    assert max(goals[asin].price_upper for asin in cheap) < min(prices[asin] for asin in dear)
    assert min(goals[asin].price_upper for asin in cheap) > max(prices[asin] for asin in cheap)


def test_only_the_features_page_says_what_a_line_means(catalogue, shop):
    """A search for the customer's word finds what it would find without the word."""
    for goal in catalogue.goals[::31]:
        asked, finish = goal.attributes
        line = shop.lines_of(goal.category)[asked]
        kind = goal.query
        assert catalogue.search(asked) == ()
        assert catalogue.search(f"{asked} {finish} {kind}") == catalogue.search(f"{finish} {kind}")
        product = catalogue.by_asin(goal.asin)
        assert product.bullets[1] == f"line for {asked}: {line}"
        assert asked not in product.name + product.description + product.bullets[0]


def test_the_search_for_what_is_wanted_finds_it_first(catalogue):
    for goal in catalogue.goals[::17]:
        (value,) = goal.goal_options.values()
        first = catalogue.product(catalogue.search(f"{goal.name} {value}")[0])
        assert first.name == goal.name
        assert value in next(iter(first.options.values()))


def test_shops_differ_and_are_functions_of_their_seed(shop):
    assert Shop.draw(0) == shop
    assert len({str(Shop.draw(seed).lines) for seed in range(50)}) == 50
    told = shop.habits_text("electronics")
    for asked, line in shop.lines_of("electronics").items():
        assert f"{asked}: {line}" in told


def test_a_category_alone_is_that_part_of_the_whole(shop):
    whole = make_records(shop, 300)
    part = make_records(shop, 300, only="garden")
    assert part.items == [item for item in whole.items if item["category"] == "garden"]
    assert len(part.items) == 60


@pytest.mark.parametrize("products", [1, 7, 60, 333, 1500])
def test_any_number_of_products_can_be_had(shop, products):
    records = make_records(shop, products)
    asins = [item["asin"] for item in records.items]
    assert len(set(asins)) == products
    assert len({len(asin) for asin in asins}) == 1
    assert set(records.instructions) == set(asins)
    whole = Catalogue.from_records(records.items, records.instructions, seed=0)
    assert len(whole) == products


def test_a_shop_is_read_back(shop, tmp_path):
    path = tmp_path / "shop.json"
    shop.write(path)
    assert Shop.read(path).lines == shop.lines
    fields = json.loads(path.read_text())
    del fields["lines"]["garden"]["sturdy"]
    path.write_text(json.dumps(fields))
    with pytest.raises(SdarError, match=r"shop\.json"):
        Shop.read(path)
