"""Experts: the one that sees all and the one that explores, over simulated small games."""

import random
from dataclasses import replace
from importlib.util import find_spec

import pytest

from sdar.environments.alfworld.config import ALFWORLD_TASK_TYPES
from sdar.environments.alfworld.expert import ExplorerExpert
from sdar.environments.alfworld.observed import Observed, parse_instruction
from sdar.environments.alfworld.world.abstract import Game
from sdar.environments.alfworld.world.generator import abstract_game
from sdar.environments.alfworld.world.home import Home
from sdar.environments.alfworld.world.simulator import SimulatedEnvironment
from sdar.environments.alfworld.world.solve import solve
from sdar.errors import SdarError

# Not importorskip: importing alfworld creates a data folder in the user's home.
if find_spec("alfworld") is None:
    pytest.skip("games are made from the scenes of the alfworld wheel", allow_module_level=True)

HOME = Home.draw(0)
GAMES = 120


def game(index: int, split: str = "train") -> Game:
    return abstract_game(11, split, index, HOME, ALFWORLD_TASK_TYPES, train_games=GAMES)


def turns_to_win(expert: ExplorerExpert, played: Game, mistakes: int = 0, limit: int = 60) -> int:
    """Turns the expert needs, after `mistakes` random turns by somebody else; checks each act."""
    environment = SimulatedEnvironment()
    observation = environment.reset(played)
    seen = Observed.start(played.task_type, played.sentence, observation)
    rng = random.Random(f"{played.trial}/{mistakes}")
    for turn in range(mistakes + limit):
        thought, action = expert.act(seen)
        assert action in observation.admissible_actions, (played.id, thought, action)
        assert len(thought.split()) <= 18
        if turn < mistakes:
            action = rng.choice([*observation.admissible_actions, "open sesame 1"])
        observation = environment.step(action)
        seen.update(action, observation)
        if observation.won:
            return turn + 1
    return mistakes + limit + 1


@pytest.mark.parametrize("split", ["train", "valid_unseen"])
def test_solution_wins_at_its_last_action(split: str) -> None:
    for index in range(GAMES):
        played = game(index, split)
        environment = SimulatedEnvironment()
        observation = environment.reset(played)
        for action in solve(played):
            assert not observation.won
            assert action in observation.admissible_actions
            observation = environment.step(action)
        assert observation.won


def test_no_solution_is_an_error() -> None:
    played = game(0)
    without = replace(played, items=())
    with pytest.raises(SdarError, match=played.target):
        solve(without)


@pytest.mark.parametrize("order", ["sweep", "random"])
def test_explorer_always_wins_in_the_end(order) -> None:
    for index in range(GAMES):
        assert turns_to_win(ExplorerExpert(index, order), game(index)) <= 30


def test_explorer_recovers_from_any_state_a_policy_leaves() -> None:
    hint_of = HOME.usual_places
    for index in range(GAMES):
        played = game(index)
        for hint in (None, hint_of(played.task_type)):
            expert = ExplorerExpert(index, "sweep", hint)
            assert turns_to_win(expert, played, mistakes=15) <= 15 + 40, played.id


def test_hint_is_worth_having_within_ten_turns() -> None:
    plain = hinted = 0
    for index in range(GAMES):
        played = game(index)
        hint = HOME.usual_places(played.task_type)
        plain += turns_to_win(ExplorerExpert(index), played) <= 10
        hinted += turns_to_win(ExplorerExpert(index, hint=hint), played) <= 10
    assert 0.4 <= plain / GAMES <= 0.7
    assert hinted / GAMES >= 0.85


def test_expert_is_honest() -> None:
    """Two games alike in all that was seen get the same decisions, wherever the targets lie."""
    parted = 0
    for index in range(GAMES):
        played = game(index)
        host = {item.id: item.host for item in played.items if item.kind == played.target}
        away = next(r.id for r in played.receptacles if r.id not in host.values())
        items = (replace(i, host=away) if i.id in host else i for i in played.items)
        worlds = [SimulatedEnvironment(), SimulatedEnvironment()]
        games = [played, replace(played, items=tuple(items))]
        views = [world.reset(g) for world, g in zip(worlds, games, strict=True)]
        known = [Observed.start(played.task_type, played.sentence, view) for view in views]
        hint = HOME.usual_places(played.task_type) if index % 2 else None
        expert = ExplorerExpert(index, "random" if index % 3 else "sweep", hint)
        for _ in range(30):
            decisions = [expert.act(seen) for seen in known]
            assert decisions[0] == decisions[1]
            action = decisions[0][1]
            views = [world.step(action) for world in worlds]
            if views[0] != views[1]:
                parted += 1
                break
            for seen, view in zip(known, views, strict=True):
                seen.update(action, view)
    assert parted == GAMES


def test_sweep_goes_on_from_where_it_stands() -> None:
    played = game(3)
    environment = SimulatedEnvironment()
    seen = Observed.start(played.task_type, played.sentence, environment.reset(played))
    start = seen.receptacles[2]
    seen.update(f"go to {start}", environment.step(f"go to {start}"))
    seen.closed.clear()
    seen.contents = {start: []}
    later = [p for p in seen.receptacles[3:] if not p.startswith(f"{seen.goal} ")]
    thought, action = ExplorerExpert(0).act(seen)
    place = later[0].rsplit(" ", 1)[0]
    assert thought.endswith(f"; try {seen.target}: {place}, {later[0]}")
    assert action == f"go to {later[0]}"


def test_wrong_object_goes_back() -> None:
    for index in range(GAMES):
        played = game(index)
        environment = SimulatedEnvironment()
        observation = environment.reset(played)
        seen = Observed.start(played.task_type, played.sentence, observation)
        for place in seen.receptacles:
            observation = environment.step(f"go to {place}")
            seen.update(f"go to {place}", observation)
            wrong = [
                action
                for action in observation.admissible_actions
                if action.startswith("take ") and f" {seen.target} " not in action
            ]
            if wrong:
                observation = environment.step(wrong[0])
                seen.update(wrong[0], observation)
                thought, action = ExplorerExpert(0).act(seen)
                item = wrong[0].split(" from ")[0].removeprefix("take ")
                assert f"hold {item} at" in thought
                assert thought.endswith(f"; put back: {place}")
                assert action == f"move {item} to {place}"
                return
    pytest.fail("no game offered a wrong object")


@pytest.mark.parametrize(
    ("sentence", "parsed"),
    [
        ("put a clean apple in fridge.", ("apple", "fridge")),
        ("clean some apple and put it in fridge.", ("apple", "fridge")),
        ("put some mug on desk.", ("mug", "desk")),
        ("put a mug in desk", ("mug", "desk")),
        ("find two pen and put them in drawer.", ("pen", "drawer")),
        ("put two pen in drawer.", ("pen", "drawer")),
        ("examine the cd with the desklamp.", ("cd", "desklamp")),
        ("look at cd under the desklamp.", ("cd", "desklamp")),
    ],
)
def test_every_sentence_template_is_understood(sentence: str, parsed: tuple[str, str]) -> None:
    assert parse_instruction(sentence) == parsed


def test_free_sentences_are_refused() -> None:
    with pytest.raises(SdarError, match="tidy up"):
        parse_instruction("tidy up the kitchen.")
