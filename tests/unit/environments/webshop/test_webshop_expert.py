"""The honest shopper: what it knows, what it does with it, and that it gets out of any corner."""

import random
import re
from pathlib import Path

import pytest

from sdar.environments.base import EnvironmentPool, Observation, Task
from sdar.environments.webshop.config import WebshopConfig
from sdar.environments.webshop.engine.catalogue import Catalogue
from sdar.environments.webshop.engine.environment import WebshopEnvironment
from sdar.environments.webshop.engine.goals import goal_task, split_by_product
from sdar.environments.webshop.expert import LineExpert, PlainExpert, make_expert
from sdar.environments.webshop.observed import (
    Row,
    affordable,
    parse_goal,
    price_limit,
    read_page,
)
from sdar.environments.webshop.package import PACKAGE
from sdar.environments.webshop.world.records import make_records
from sdar.environments.webshop.world.shop import Shop
from sdar.errors import SdarError

TURNS = 8


@pytest.fixture(scope="module")
def shop():
    return Shop.draw(0)


@pytest.fixture(scope="module")
def catalogue(shop):
    records = make_records(shop, 300)
    return Catalogue.from_records(records.items, records.instructions, seed=0)


@pytest.fixture(scope="module")
def tasks(catalogue):
    return [goal_task(goal, "test") for goal in catalogue.goals]


def allowed(action, seen):
    return action in seen.admissible_actions or (
        action.startswith("search[") and "search[<your query>]" in seen.admissible_actions
    )


def play(environment, task, knowledge, seed=0, turns=TURNS):
    """The last observation and the thoughts."""
    seen = environment.reset(task)
    expert = make_expert(task, seen, knowledge, seed)
    thoughts = []
    for _ in range(turns):
        thought, action = expert.act()
        assert allowed(action, seen), (action, seen)
        assert (thought, action) == expert.act()
        thoughts.append(thought)
        seen = environment.step(action)
        expert.observe(action, seen)
        if seen.done:
            break
    return seen, thoughts


@pytest.mark.parametrize("mode", ["text", "text_rich"])
def test_told_the_lines_it_wins_every_goal_in_four_turns(catalogue, tasks, shop, mode):
    environment = WebshopEnvironment(catalogue, mode)
    for task in tasks:
        seen, thoughts = play(environment, task, shop)
        assert seen.score == 1.0
        assert seen.won
        assert len(thoughts) == 4


def test_without_the_hint_it_wins_less_than_half_in_eight_turns(catalogue, tasks):
    environment = WebshopEnvironment(catalogue)
    won = sum(play(environment, task, None, seed)[0].won for seed, task in enumerate(tasks))
    assert 0.35 < won / len(tasks) < 0.55


def test_it_looks_a_line_up_in_the_words_of_the_skill(catalogue, tasks, shop):
    environment = WebshopEnvironment(catalogue)
    for task in tasks[::40]:
        _, thoughts = play(environment, task, shop)
        asked = parse_goal(task.instruction).property
        pair = f"{asked}: {shop.lines_of(task.task_type)[asked]}"
        assert thoughts[0] == f"try {pair}"
        assert pair in shop.habits_text(task.task_type)


def test_only_the_hint_tells_it_of_the_shop(catalogue, tasks):
    """What it does first is a function of the task; with the hint, of the shop too."""
    environment = WebshopEnvironment(catalogue)
    first = environment.reset(tasks[3])
    others = [Shop.draw(seed) for seed in range(20)]
    told = {make_expert(tasks[3], first, other).act() for other in others}
    assert len(told) == 5
    guesses = {make_expert(tasks[3], first, None, seed).act() for seed in range(30)}
    assert guesses == told


def test_it_learns_from_a_features_page_what_a_line_is_not(catalogue, tasks, shop):
    environment = WebshopEnvironment(catalogue)
    recalled = 0
    for seed, task in enumerate(tasks[::9]):
        wanted = parse_goal(task.instruction)
        lines = shop.lines_of(task.task_type)
        _, thoughts = play(environment, task, None, seed)
        read = [thought for thought in thoughts if thought.startswith("read ")]
        tries = [thought for thought in thoughts if thought.startswith("try ")]
        if len(tries) < 2 or not read:
            continue
        recalled += 1
        asked, line = re.match(r"read (\w+): (\w+); need", read[0]).groups()
        assert lines[asked] == line
        assert asked != wanted.property
        again = tries[1].removeprefix(f"try {wanted.property}: ").partition(";")[0]
        assert again in set(lines.values()) - {line}
    assert recalled > 20


def test_it_plays_on_from_wherever_it_is_put(catalogue, tasks, shop):
    environment = WebshopEnvironment(catalogue)
    for number, task in enumerate(tasks[::9]):
        draw = random.Random(number)
        seen = environment.reset(task)
        expert = make_expert(task, seen, shop)
        for _ in range(draw.randrange(1, 12)):
            actions = [a for a in seen.admissible_actions if a != "click[buy now]"]
            action = draw.choice(actions)
            if action.startswith("search"):
                action = f"search[{draw.choice(task.instruction.split())}]"
            seen = environment.step(action)
            expert.observe(action, seen)
        for _ in range(TURNS):
            _, action = expert.act()
            assert allowed(action, seen), (action, seen)
            seen = environment.step(action)
            expert.observe(action, seen)
            if seen.done:
                break
        assert seen.won


def test_without_the_hint_it_goes_on_with_the_guess_that_was_made(catalogue, tasks, shop):
    environment = WebshopEnvironment(catalogue)
    task = tasks[3]
    wanted = parse_goal(task.instruction)
    for line in shop.lines_of(task.task_type).values():
        expert = make_expert(task, environment.reset(task), None)
        action = f"search[{wanted.kind} {line} {wanted.finish}]"
        expert.observe(action, environment.step(action))
        assert expert.act()[0].startswith(f"need {line} {wanted.finish}")


def test_it_passes_over_what_is_too_dear_or_lacks_the_option():
    said = "Find me quiet, metal mouse with color: red, and price lower than 30.00 dollars"
    task = Task("t/1", "t", "electronics", said, "")
    index = Observation(
        f"WebShop [SEP] Instruction: [SEP] {said} [SEP] Search",
        ("search[<your query>]",),
        False,
        False,
    )
    told = Shop(0, {"electronics": {"quiet": "nova", **dict.fromkeys(OTHERS, "aero")}})
    expert = make_expert(task, index, told)
    head = f"Instruction: [SEP] {said} [SEP] Back to Search"
    rows = "101 [SEP] mouse nova metal [SEP] $96.0 [SEP] 102 [SEP] mouse nova metal [SEP] $18.0"
    clicks = ("back to search", "next >", "101", "102")
    results = page(f"{head} [SEP] Page 1 (Total results: 2) [SEP] Next > [SEP] {rows}", clicks)
    expert.observe("search[mouse nova metal red]", results)
    assert expert.act() == ("need nova metal under $30.00; here $18.0", "click[102]")

    body = "color [SEP] blue [SEP] mouse nova metal [SEP] Price: $18.0 [SEP] Rating: N.A."
    item = page(
        f"{head} [SEP] < Prev [SEP] {body} [SEP] Description [SEP] Features [SEP] Reviews [SEP] "
        "Buy Now",
        ("back to search", "< prev", "description", "features", "reviews", "buy now", "blue"),
    )
    expert.observe("click[102]", item)
    assert expert.act() == ("need color: red; none here", "click[< prev]")
    expert.observe("click[< prev]", results)
    assert expert.act() == ("need nova metal under $30.00; none here", "click[next >]")
    last = page(
        f"{head} [SEP] Page 2 (Total results: 2) [SEP] < Prev [SEP] Next >",
        ("back to search", "< prev", "next >"),
    )
    expert.observe("click[next >]", last)
    assert expert.act()[1] == "click[back to search]"


OTHERS = ("fast", "portable", "waterproof", "rugged")


def page(text, clicks):
    return Observation(text, tuple(f"click[{name}]" for name in clicks), False, False)


def test_limits_and_tags():
    assert price_limit("a red hat, and price lower than 40.00 dollars") == ("a red hat", 40.0)
    assert price_limit("a red hat") == ("a red hat", float("inf"))
    assert affordable("$12.0 to $16.0", 16.0)
    assert not affordable("$12.0 to $16.0", 15.0)


def test_goals_of_no_generated_shop_are_played_plainly():
    index = Observation("WebShop [SEP] Search", ("search[<your query>]",), False, False)
    for said in (
        "i need a long lasting 6.76 fl oz bottle of l'eau d'issey",
        "Find me quiet, metal unicorn with color: red",
        "Find me quiet, steel mouse with color: red",
    ):
        assert parse_goal(said) is None
        expert = make_expert(Task("t", "t", "beauty", said, ""), index, Shop.draw(0))
        assert isinstance(expert, PlainExpert)
        assert expert.act()[1] == f"search[{said}]"
    said = "Find me quiet, metal mouse with color: red"
    expert = make_expert(Task("t", "t", "electronics", said, ""), index, None)
    assert isinstance(expert, LineExpert)


def test_the_plain_expert_earns_something_with_real_goals(shared):
    catalogue = Catalogue.open(shared / "data" / "webshop", seed=0)
    environment = WebshopEnvironment(catalogue)
    places = split_by_product(catalogue.goals, 0)["test"][:60]
    scores = []
    for place in places:
        task = goal_task(catalogue.goals[place], "test")
        seen, _ = play(environment, task, None, turns=15)
        scores.append(seen.score or 0.0)
    assert sum(scores) / len(scores) > 0.4


def test_a_shop_that_lacks_the_category_is_an_error():
    with pytest.raises(SdarError, match="tools"):
        Shop.draw(0).habits_text("tools")


def test_the_page_after_the_purchase_is_read(catalogue, tasks, shop):
    seen, _ = play(WebshopEnvironment(catalogue), tasks[0], shop)
    assert read_page(seen).kind == "done"


def meddled(pool: EnvironmentPool, task: Task, knowledge: object, meddling: int) -> None:
    """Somebody else acts first, in any way that is offered; what the expert says is on offer."""
    draw = random.Random(f"{task.id} {meddling}")
    seen = pool.reset({0: task})[0]
    expert = PACKAGE.expert(task, seen, knowledge)
    for turn in range(meddling + 12):
        _, action = expert.act()
        assert PACKAGE.is_admissible(action, seen.admissible_actions), (task.id, turn, action)
        if turn < meddling:
            action = draw.choice(seen.admissible_actions)
            if action.startswith("search["):
                action = f"search[{draw.choice(task.instruction.split())}]"
        seen = pool.step({0: action})[0]
        expert.observe(action, seen)
        if seen.done:
            return


@pytest.mark.parametrize("mode", ["text", "text_rich"])
def test_whoever_acted_before_the_expert_says_what_is_offered(tmp_path: Path, mode: str) -> None:
    config = WebshopConfig(observation=mode)
    tasks, _ = PACKAGE.make_tasks(config, (), tmp_path)
    pool = PACKAGE.open_pool(config, tmp_path)
    for number, task in enumerate(tasks[::12]):
        told = PACKAGE.knowledge(tmp_path) if number % 2 else None
        meddled(pool, task, told, meddling=number % 9)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["text", "text_rich"])
def test_on_real_products_too(shared: Path, tmp_path: Path, mode: str) -> None:
    config = WebshopConfig(observation=mode, data=shared / "data" / "webshop")
    tasks, _ = PACKAGE.make_tasks(config, (), tmp_path)
    pool = PACKAGE.open_pool(config, tmp_path)
    for number, task in enumerate(random.Random(0).sample(tasks, 150)):
        meddled(pool, task, None, meddling=number % 9)


def test_a_product_without_a_title_is_a_product() -> None:
    rows = ["B000000001", "Cotton Shirt", "$10.00", "B000000002", "$9.00", "B000000003", "A", "$8"]
    text = " [SEP] ".join(
        ["Instruction:", "x", "Back to Search", "Page 1 (Total results: 3)", "Next >", *rows]
    )
    offered = ["back to search", "next >", "b000000001", "b000000002", "b000000003"]
    page = read_page(
        Observation(text, tuple(f"click[{name}]" for name in offered), won=False, done=False)
    )
    assert page.rows == (
        Row("B000000001", "Cotton Shirt", "$10.00"),
        Row("B000000002", "", "$9.00"),
        Row("B000000003", "A", "$8"),
    )
