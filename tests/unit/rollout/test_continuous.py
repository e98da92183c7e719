"""Episodes without a barrier: the same words as turn by turn, and the same bits whatever the
environment's mood."""

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import scripted
from double_precision import double_precision, in_double

from sdar.clock import PhaseClock
from sdar.environments.base import Observation
from sdar.environments.pools import in_thread
from sdar.rollout.collector import collect
from sdar.rollout.engines.base import Generation
from sdar.rollout.engines.transformers import TransformersEngine
from sdar.rollout.engines.transformers_continuous import ContinuousTransformersEngine
from sdar.rollout.teacher import Teaching, drawn

TURNS = scripted.SETTINGS
CONTINUOUS = replace(TURNS, schedule="continuous")
COUNT = 8


@pytest.fixture(scope="module", autouse=True)
def in_double_precision():
    """Where a draw lies between two tokens, rounding decides: in single precision some processor's
    would, sooner or later."""
    with double_precision():
        yield


class MoodyPool(scripted.ScriptedPool):
    """Each answer is computed in a thread of its own and comes after a time of its own."""

    def __init__(self, seed: int, longest: float = 0.02) -> None:
        super().__init__()
        self.mood = random.Random(seed)
        self.longest = longest
        self.asked: dict[int, Future[Observation]] = {}
        self.ended: list[int] = []
        self.lock = threading.Lock()

    def send(self, actions: dict[int, str]) -> None:
        for slot, action in actions.items():
            delay = self.mood.uniform(0.0, self.longest)
            self.asked[slot] = in_thread(partial(self.answer, slot, action, delay))

    def answer(self, slot: int, action: str, delay: float) -> Observation:
        time.sleep(delay)
        with self.lock:
            self.ended.append(slot)
            return self.step({slot: action})[slot]

    def receive(self, slots: Sequence[int]) -> dict[int, Observation]:
        return {slot: self.asked.pop(slot).result(timeout=60) for slot in slots}


class Watched:
    """A continuous engine that counts: what was asked for at which step, and how much at once."""

    def __init__(self, engine) -> None:
        self.engine = engine
        self.live: set[int] = set()
        self.steps = self.most = 0
        self.order: list[tuple[int, int]] = []

    def submit(self, name, prompt_ids, key, **options) -> None:
        self.live.add(name)
        self.order.append((self.steps, name))
        self.most = max(self.most, len(self.live))
        self.engine.submit(name, prompt_ids, key, **options)

    def advance(self):
        self.steps += 1
        ended = self.engine.advance()
        self.live -= {name for name, _ in ended}
        return ended


class Speaker:
    """Says `response(slot, turn)`, one token per step."""

    def __init__(self, response) -> None:
        self.response = response
        self.left: dict[int, list] = {}

    def submit(self, name, prompt_ids, key, *, max_new_tokens, temperature) -> None:
        ids = scripted.tokenizer()(self.response(*key[2:]))["input_ids"]
        self.left[name] = [len(ids), Generation(ids, [-1.0] * len(ids))]

    def advance(self):
        for entry in self.left.values():
            entry[0] -= 1
        ended = [(name, entry[1]) for name, entry in self.left.items() if entry[0] == 0]
        self.left = {name: entry for name, entry in self.left.items() if entry[0]}
        return ended


def continuous_engine():
    return ContinuousTransformersEngine(in_double(scripted.policy()), scripted.tokenizer())


def play(settings, engine=None, pool=None, count=COUNT, **options):
    return collect(
        engine or continuous_engine(),
        scripted.tokenizer(),
        pool or scripted.ScriptedPool(),
        scripted.tasks(count),
        [i // 2 for i in range(count)],
        settings=settings,
        **{"skills": None, "seed": 0, "step": 0} | options,
    )


def without_log_probs(episodes):
    for episode in episodes:
        for turn in episode.turns:
            turn.log_probs = []
    return episodes


def assert_same_episodes(episodes, expected):
    """Everything equal but log-probs, which may round otherwise."""
    for one, other in zip(episodes, expected, strict=True):
        for turn, same in zip(one.turns, other.turns, strict=True):
            np.testing.assert_allclose(turn.log_probs, same.log_probs, atol=1e-9)
    assert without_log_probs(episodes) == without_log_probs(expected)


class Skills:
    def for_task(self, task):
        text = f"Skill of {task.task_type}."
        return type("Skill", (), {"name": task.task_type, "text": text, "digest": "d"})


class WatchedTeaching(Teaching):
    """Counts the environments that act while a prompt is made."""

    acting: ClassVar[list[int]] = []

    def prompt(self, task, turn, cut=None):
        self.acting.append(len(self.skills.pool.acting))
        return super().prompt(task, turn, cut)


class WatchedPool(scripted.ScriptedPool):
    def __init__(self):
        super().__init__()
        self.acting = set()

    def send(self, actions):
        self.acting.update(actions)
        super().send(actions)

    def receive(self, slots):
        self.acting.difference_update(slots)
        return super().receive(slots)


@pytest.mark.parametrize("settings", [TURNS, CONTINUOUS], ids=["turns", "continuous"])
def test_the_teachers_prompts_are_made_while_the_environments_act(settings, monkeypatch):
    monkeypatch.setattr(WatchedTeaching, "acting", [])
    pool, skills = WatchedPool(), Skills()
    skills.pool = pool
    limit = 2000
    watched = WatchedTeaching(scripted.tokenizer(), settings.package, skills, limit)
    episodes = play(settings, pool=pool, teaching=watched)
    turns = [(episode.task, turn) for episode in episodes for turn in episode.turns]
    assert len(WatchedTeaching.acting) == len(turns)
    assert all(WatchedTeaching.acting)
    plain = Teaching(scripted.tokenizer(), settings.package, Skills(), limit)
    assert [turn.teacher for _, turn in turns] == [plain.prompt(*each) for each in turns]
    untaught = play(settings)
    assert all(turn.teacher is None for episode in untaught for turn in episode.turns)
    for _, turn in turns:
        turn.teacher = None
    assert episodes == untaught


@pytest.mark.parametrize("settings", [TURNS, CONTINUOUS], ids=["turns", "continuous"])
def test_a_turn_that_is_not_drawn_has_no_teachers_prompt(settings, monkeypatch):
    """None is made, and the episodes are the same."""
    monkeypatch.setattr(WatchedTeaching, "acting", [])
    pool, skills = WatchedPool(), Skills()
    skills.pool = pool
    teaching = WatchedTeaching(scripted.tokenizer(), settings.package, skills, 2000, share=0.4)
    episodes = play(settings, pool=pool, teaching=teaching, seed=2, step=3)
    turns = [(episode, turn) for episode in episodes for turn in episode.turns]
    taught = [turn.teacher is not None for _, turn in turns]
    keys = [(2, 3, episode.slot, turn.moment.index) for episode, turn in turns]
    assert taught == [drawn(key, 0.4) for key in keys]
    assert {True, False} == set(taught)
    assert len(WatchedTeaching.acting) == sum(taught)
    for _, turn in turns:
        turn.teacher = None
    assert episodes == play(settings, seed=2, step=3)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("batch", "answer_after"), [(64, 1), (3, 1), (1, 1), (64, 7), (3, 7)])
def test_episodes_are_those_of_the_turns(batch, answer_after, temperature):
    turns = play(replace(TURNS, temperature=temperature))
    lengths = {len(episode.turns) for episode in turns}
    assert len(lengths) > 1 or temperature == 0.0, "the test needs episodes that end early"
    settings = replace(CONTINUOUS, batch=batch, answer_after=answer_after, temperature=temperature)
    assert_same_episodes(play(settings), turns)


def test_slots_may_start_anywhere():
    expected = play(replace(TURNS, max_turns=2), count=4, first_slot=4)
    assert [episode.slot for episode in expected] == [4, 5, 6, 7]
    assert_same_episodes(play(replace(CONTINUOUS, max_turns=2), count=4, first_slot=4), expected)
    elsewhere = play(replace(CONTINUOUS, max_turns=2), count=4)
    words = [[turn.response_ids for turn in e.turns] for e in (*elsewhere, *expected)]
    assert words[:4] != words[4:]


def test_the_environments_mood_changes_no_bit():
    expected = play(CONTINUOUS)
    orders = set()
    for seed in range(3):
        pool = MoodyPool(seed)
        assert play(CONTINUOUS, pool=pool) == expected, "log-probs included"
        orders.add(tuple(pool.ended))
    assert len(orders) > 1, "the test needs answers that come in different orders"


def test_an_engine_plays_its_second_rollout_as_a_new_one_would():
    engine = continuous_engine()
    play(CONTINUOUS, engine=engine)
    assert play(CONTINUOUS, engine=engine, step=1) == play(CONTINUOUS, step=1)


def test_at_most_batch_responses_at_once_and_those_who_wait_do_so_in_order():
    engine = Watched(continuous_engine())
    play(replace(CONTINUOUS, batch=3), engine=engine)
    assert engine.most == 3
    first_turns = [name for _, name in engine.order][:3]
    assert first_turns == [0, 1, 2]
    firsts = list(dict.fromkeys(name for _, name in engine.order))
    assert firsts == list(range(COUNT)), "nobody is overtaken in the first round"


@pytest.mark.parametrize("answer_after", [1, 2, 5])
def test_an_answer_is_taken_up_exactly_when_it_is_due(answer_after):
    # Slot 0 speaks briefly, slot 1 at length, so that the engine is never idle.
    def response(slot, turn):
        words = "look around" if slot == 0 else "look around " * 30
        return f"<think>so</think><action>{words}</action><|im_end|>"

    engine = Watched(Speaker(response))
    settings = replace(CONTINUOUS, answer_after=answer_after, max_turns=3)
    episodes = play(settings, engine=engine, count=2)
    tokens = len(episodes[0].turns[0].response_ids)
    begun = [step for step, name in engine.order if name == 0]
    assert begun == [turn * (tokens + answer_after) for turn in range(3)]
    assert [len(episode.turns) for episode in episodes] == [3, 3]


def test_the_time_jumps_when_nobody_speaks():
    response = "<think>so</think><action>look</action><|im_end|>"
    engine = Watched(Speaker(lambda slot, turn: response))
    episodes = play(replace(CONTINUOUS, answer_after=1000), engine=engine, count=2)
    tokens = sum(len(turn.response_ids) for turn in episodes[0].turns)
    assert engine.steps == tokens, "no step of the engine was spent on waiting"


def test_progress_and_clock():
    seen, clock = [], PhaseClock()
    pool = MoodyPool(0, longest=0.05)
    episodes = play(CONTINUOUS, pool=pool, on_progress=seen.append, clock=clock)
    assert (seen[-1].live, seen[-1].finished) == (0, COUNT)
    assert seen[-1].won == sum(episode.won for episode in episodes)
    shares = [p.finished + p.live * p.turn / CONTINUOUS.max_turns for p in seen]
    assert shares == sorted(shares)
    assert set(clock.seconds) == {"environment", "generation"}
    assert clock.seconds["environment"] > 0.05


def test_the_engine_samples_what_the_other_does_whenever_rows_join():
    prompts = [scripted.tokenizer()(text)["input_ids"] for text in scripted.TEXTS]
    prompts = [*prompts, prompts[0], [*prompts[1], *prompts[2], *prompts[3]]]
    keys = [(3, 1, slot, 2) for slot in range(len(prompts))]
    ends = frozenset({5, 9, 60, 61, 62, 63, 64})
    model = in_double(scripted.policy())
    together = TransformersEngine(model, None, ends=ends)
    engine = ContinuousTransformersEngine(model, None, ends=ends)
    options = {"max_new_tokens": 9, "temperature": 1.0}
    expected = together.generate(prompts, keys, **options)
    greedy = together.generate(prompts[:1], keys[:1], max_new_tokens=4, temperature=0.0)[0]
    responses, left = {}, list(enumerate(zip(prompts, keys, strict=True)))
    engine.submit(100, prompts[0], keys[0], max_new_tokens=4, temperature=0.0)
    while left or len(responses) <= len(prompts):
        for name, (prompt, key) in left[:2]:
            engine.submit(name, prompt, key, **options)
        left = left[2:]
        responses.update(engine.advance())
    assert responses[100].token_ids == greedy.token_ids
    for name, generation in enumerate(expected):
        assert responses[name].token_ids == generation.token_ids
        np.testing.assert_allclose(responses[name].log_probs, generation.log_probs, atol=1e-9)
    assert engine.advance() == []
