"""WebShop's package: tasks of a generated shop and of real data, practice, admissible actions."""

import json
import random

import pytest

from sdar.config import ExperimentConfig
from sdar.environments.base import Task
from sdar.environments.packages import environment_package
from sdar.environments.webshop.observed import parse_goal
from sdar.environments.webshop.practice import FIRST_SHOP
from sdar.environments.webshop.world.shop import Shop
from sdar.errors import SdarError
from sdar.skills.library import SkillLibrary


def settings(**environment):
    """The tiny experiment's configuration, with changes to its environment."""
    return ExperimentConfig.model_validate(
        {
            "environment": {"name": "webshop", "max_turns": 8, **environment},
            "warm_start": {"demonstrations": {"worlds": 40}},
            "evaluation": {"panels": ["test"]},
        }
    )


@pytest.fixture(scope="module")
def package():
    return environment_package("webshop")


@pytest.fixture(scope="module")
def made(package, tmp_path_factory):
    """(configuration, folder, tasks) of a generated shop."""
    config = settings(goals={"train": 120, "test": 60})
    folder = tmp_path_factory.mktemp("tasks")
    tasks, source = package.make_tasks(config.environment, ("test",), folder)
    assert "300 products" in source
    return config, folder, tasks


def product(task):
    return task.id.rpartition("/")[2].rpartition("-")[0]


def test_generated_tasks_are_counted_and_split_by_product(made):
    _, folder, tasks = made
    splits = {name: [task for task in tasks if task.split == name] for name in ("train", "test")}
    assert {name: len(some) for name, some in splits.items()} == {"train": 120, "test": 60}
    assert not {product(t) for t in splits["train"]} & {product(t) for t in splits["test"]}
    assert len({task.id for task in tasks}) == len(tasks)
    items = json.loads((folder / "items_shuffle.json").read_text())
    categories = {item["asin"]: item["category"] for item in items}
    for task in tasks:
        assert task.task_type == categories[product(task)]
        assert task.id.startswith(f"{task.split}/")
        assert parse_goal(task.instruction).category == task.task_type


def test_the_tasks_are_a_function_of_the_configuration(package, made, tmp_path):
    config, folder, tasks = made
    assert package.make_tasks(config.environment, ("test",), tmp_path)[0] == tasks
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    assert package.make_tasks(settings(seed=1).environment, ("test",), other)[0] != tasks
    assert package.knowledge(other) != package.knowledge(folder)


def test_many_episodes_share_the_shop_and_the_told_expert_wins_them(package, made):
    config, folder, tasks = made
    knowledge = package.knowledge(folder)
    assert knowledge == Shop.read(folder / "shop.json")
    pool = package.open_pool(config.environment, folder)
    some = dict(enumerate(tasks[:20]))
    seen = pool.reset(some)
    experts = {slot: package.expert(task, seen[slot], knowledge) for slot, task in some.items()}
    for _ in range(4):
        actions = {slot: expert.act()[1] for slot, expert in experts.items()}
        for slot, action in actions.items():
            assert package.is_admissible(action, seen[slot].admissible_actions)
        seen = pool.step(actions)
        for slot, expert in experts.items():
            expert.observe(actions[slot], seen[slot])
    assert all(one.won and one.score == 1.0 for one in seen.values())


def test_a_search_is_admissible_where_it_is_offered(package):
    first = ("search[<your query>]",)
    item = ("click[buy now]", "click[red]")
    assert package.is_admissible("search[a red hat]", first)
    assert not package.is_admissible("search[a red hat]", item)
    assert not package.is_admissible("search a red hat", first)
    assert package.is_admissible("click[red]", item)
    assert not package.is_admissible("click[blue]", item)


def test_a_response_is_read_back(package):
    response = package.response("try quiet: aero", "search[fan aero metal red]")
    assert package.parse(response) == ("search[fan aero metal red]", True)


def test_only_the_chosen_categories_are_sold(package, tmp_path):
    config = settings(categories=["garden", "grocery"], products=48)
    tasks, _ = package.make_tasks(config.environment, ("test",), tmp_path)
    assert {task.task_type for task in tasks} == {"garden", "grocery"}
    assert len(json.loads((tmp_path / "items_shuffle.json").read_text())) == 48


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"human_goals": True}, "environment.human_goals"),
        ({"products": 1}, "environment.products"),
        ({"split": "upstream", "products": 60}, "environment.split"),
    ],
)
def test_what_cannot_be_made_is_an_error(package, tmp_path, environment, named):
    with pytest.raises(SdarError, match=named):
        package.make_tasks(settings(**environment).environment, ("test",), tmp_path)


def test_real_goals_are_listed_and_played(package, shared, tmp_path):
    data = str(shared / "data" / "webshop")
    config = ExperimentConfig.model_validate(
        {
            "environment": {
                "name": "webshop",
                "data": data,
                "split": "upstream",
                "goals": {"train": 10_000, "test": 500},
            },
            "policy": {"model": "Qwen/Qwen3-1.7B", "context": 40960},
            "warm_start": {"enabled": False},
        }
    )
    tasks, source = package.make_tasks(config.environment, ("test",), tmp_path)
    assert "real" in source
    counts = {name: sum(task.split == name for task in tasks) for name in ("train", "test")}
    assert counts == {"train": 6410, "test": 500}
    assert package.knowledge(tmp_path) is None
    pool = package.open_pool(config.environment, tmp_path)
    seen = pool.reset({0: tasks[-1]})[0]
    expert = package.expert(tasks[-1], seen, None)
    for _ in range(config.environment.max_turns):
        action = expert.act()[1]
        assert package.is_admissible(action, seen.admissible_actions)
        seen = pool.step({0: action})[0]
        expert.observe(action, seen)
        if seen.done:
            break
    assert seen.done
    assert seen.score > 0


def test_practice_is_a_function_of_its_number(package):
    config = settings()
    for index in (0, 7, 10_000_003):
        one, other = package.practice(config, index), package.practice(config, index)
        assert one.task == other.task
        assert one.hinted == other.hinted
        assert one.expert_turn() == other.expert_turn()
        assert one.knowledge == Shop.draw(FIRST_SHOP + index % 40)


def test_practice_is_in_all_categories_and_half_of_it_hinted(package):
    config = settings()
    episodes = [package.practice(config, index) for index in range(200)]
    assert {episode.task.task_type for episode in episodes} == set(config.environment.categories)
    assert 0.4 < sum(episode.hinted for episode in episodes) / 200 < 0.6
    assert len({episode.knowledge.seed for episode in episodes}) == 40
    assert all(episode.knowledge != Shop.draw(config.environment.seed) for episode in episodes)


def test_openings_are_hinted_each_in_a_shop_of_its_own(package):
    episodes = [package.practice(settings(), index, opening=True) for index in range(60)]
    assert all(episode.hinted for episode in episodes)
    assert len({episode.knowledge.seed for episode in episodes}) == 60
    for episode in episodes:
        asked = parse_goal(episode.task.instruction).property
        line = episode.knowledge.lines_of(episode.task.task_type)[asked]
        assert episode.expert_turn()[0] == f"try {asked}: {line}"


def test_a_practice_episode_survives_mistakes_that_never_buy(package):
    config = settings()
    for index in range(40):
        episode, draw = package.practice(config, index), random.Random(index)
        for _ in range(6):
            action = episode.mistake(draw)
            assert action != "click[buy now]"
            assert package.is_admissible(action, episode.observation.admissible_actions)
            assert not episode.step(action).done
        for _ in range(30):
            if episode.step(episode.expert_turn()[1]).done:
                break
        assert episode.observation.done
        assert episode.observation.won or not episode.hinted


def test_the_skill_tells_the_shop_and_only_that(package, made):
    _, folder, _ = made
    shop = package.knowledge(folder)
    told = SkillLibrary(None, shop, "webshop")
    plain = SkillLibrary(None, None, "webshop")
    for category in told.task_types:
        habits = shop.habits_text(category)
        assert told.lookup(category).text == f"{plain.lookup(category).text}\n{habits}"


def test_the_package_names_every_word_a_policy_copies(package):
    names = package.names()
    for index in range(60):
        episode = package.practice(settings(), index)
        wanted = parse_goal(episode.task.instruction)
        query = episode.expert_turn()[1].removeprefix("search[").removesuffix("]")
        assert set(query.split()) <= set(names)
        assert {wanted.property, wanted.limit.removesuffix(".00")} <= set(names)
        assert isinstance(episode.task, Task)
