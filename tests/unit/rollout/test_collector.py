"""The collector: ends, limits, penalties, and independence of everything beside an episode."""

from dataclasses import replace

import scripted

from sdar.policy.chat import render_prompt
from sdar.rollout.collector import collect
from sdar.rollout.engines.base import Generation
from sdar.rollout.engines.transformers import TransformersEngine

SETTINGS = scripted.SETTINGS


class Speaker:
    """An engine that says what it is told, by (slot, turn), and remembers what it was asked."""

    def __init__(self, say):
        self.say = say
        self.asked = []

    def generate(self, prompt_ids, keys, *, max_new_tokens, temperature):
        self.asked.append(list(keys))
        texts = [self.say(slot, turn) for _, _, slot, turn in keys]
        encoded = [scripted.tokenizer()(text)["input_ids"] for text in texts]
        return [Generation(ids, [-1.0] * len(ids)) for ids in encoded]


def say_action(action):
    return f"<think>so</think><action>{action}</action><|im_end|>"


def play(engine, count=4, settings=SETTINGS, pool=None, **options):
    tasks = scripted.tasks(count)
    arguments = {"skills": None, "seed": 0, "step": 0} | options
    return collect(
        engine,
        scripted.tokenizer(),
        pool or scripted.ScriptedPool(),
        tasks,
        [i // 2 for i in range(count)],
        settings=settings,
        **arguments,
    )


def winning_action(task, modulus=7):
    return next(
        "go" + "!" * n
        for n in range(50)
        if (sum(("go" + "!" * n).encode()) + len(task.id)) % modulus == 0
    )


def losing_action(task, modulus=7):
    for place in scripted.PLACES:
        action = f"go to {place}"
        if (sum(action.encode()) + len(task.id)) % modulus:
            return action
    raise AssertionError


def test_finished_episodes_are_dropped_and_rewarded():
    tasks = scripted.tasks(4)

    def say(slot, turn):
        wins = slot == 1 and turn == 1
        return say_action(winning_action(tasks[1]) if wins else losing_action(tasks[slot]))

    engine, seen = Speaker(say), []
    episodes = play(engine, on_progress=seen.append)
    assert [e.won for e in episodes] == [False, True, False, False]
    assert [e.episode_return for e in episodes] == [0.0, 10.0, 0.0, 0.0]
    assert [len(e.turns) for e in episodes] == [5, 2, 5, 5]
    assert [len(keys) for keys in engine.asked] == [4, 4, 3, 3, 3]
    assert (seen[-1].turn, seen[-1].live, seen[-1].finished, seen[-1].won) == (5, 3, 1, 1)
    turn = episodes[1].turns[1]
    assert turn.moment.observation == episodes[1].turns[0].next_observation
    assert turn.next_observation == "You found it."
    assert turn.valid
    assert not turn.admissible
    assert episodes[0].turns[0].admissible


def test_invalid_responses_are_penalised_and_kept_as_sampled():
    episodes = play(Speaker(lambda slot, turn: "mumble<|im_end|>"), count=2)
    for turn in episodes[0].turns:
        assert not turn.valid
        assert turn.penalty == 0.1
        assert turn.response == "mumble"
        assert turn.response_ids[-1] == scripted.tokenizer().eos_token_id


def test_history_window_and_prompt():
    episode = play(Speaker(lambda slot, turn: say_action(f"look {turn}")), count=1)[0]
    turn = episode.turns[3]
    assert [past.action for past in turn.moment.history] == ["look 1", "look 2"]
    assert "You did: look 2" in turn.prompt.messages[-1]["content"]
    assert "You did: look 0" not in turn.prompt.messages[-1]["content"]
    assert turn.prompt.token_ids == render_prompt(scripted.tokenizer(), turn.prompt.messages)


def test_long_prompts_lose_history_oldest_first_and_count_it():
    engine = Speaker(lambda slot, turn: say_action("look"))
    full = play(engine, count=1)[0].turns[4]
    limit = len(full.prompt.token_ids) - 1
    cut = play(engine, count=1, settings=replace(SETTINGS, max_prompt_tokens=limit))[0].turns[4]
    assert cut.prompt.dropped_history == 1
    assert cut.moment == full.moment.without_oldest(1)
    assert cut.moment.history == full.moment.history[1:]
    assert len(cut.prompt.token_ids) <= limit


def test_batch_size_and_company_change_nothing():
    engine = TransformersEngine(scripted.policy(), scripted.tokenizer())
    everyone = play(engine, count=6)
    assert len({len(e.turns) for e in everyone}) > 1, "the test needs episodes that end early"
    for settings in (replace(SETTINGS, batch=1), replace(SETTINGS, batch=4)):
        again = play(engine, count=6, settings=settings)
        assert _words(again) == _words(everyone)
    assert _words(play(engine, count=3)) == _words(everyone)[:3]
    assert _words(play(engine, count=6, step=1)) != _words(everyone)
    assert _words(play(engine, count=6, seed=1)) != _words(everyone)


def test_student_with_skill_has_it_in_the_system_message():
    class Library:
        def for_task(self, task):
            told = {"name": task.task_type, "text": "Try the fridge.", "digest": "d"}
            return type("Skill", (), told)

    episode = play(Speaker(lambda slot, turn: say_action("look")), count=1, skills=Library())[0]
    assert (episode.skill, episode.skill_digest) == ("pick_and_place_simple", "d")
    assert episode.turns[0].prompt.messages[0] == {"role": "system", "content": "Try the fridge."}


def _words(episodes):
    return [[turn.response_ids for turn in episode.turns] for episode in episodes]
