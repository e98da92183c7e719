"""A prompt that is too long for its limit: what is cut, what is counted, and what is refused."""

import logging
from dataclasses import replace

import pytest
import scripted

from sdar.config import parse_config
from sdar.environments.base import Moment, PastTurn, Task
from sdar.environments.packages import NAMES, environment_package
from sdar.errors import SdarError
from sdar.rollout.collector import collect
from sdar.rollout.engines.transformers import TransformersEngine
from sdar.rollout.limits import check_limits
from sdar.rollout.teacher import Teaching
from sdar.rollout.turns import CUT, fit_prompt
from sdar.training.measures import rollout_measures, teacher_measures
from sdar.training.step_batch import StepBatch

TOKENIZER = scripted.tokenizer()
PAGE = " ".join(f"word {number} of the page" for number in range(900))
LIMIT = 600
SKILL = "Look in the fridge first. " * 5


class Skills:
    def for_task(self, task):
        return type("Skill", (), {"name": task.task_type, "text": SKILL, "digest": "d"})


class LongPool(scripted.ScriptedPool):
    """As its base; the first task's second observation is as long as a book's page."""

    def _see(self, slot, text, won):
        long = self.steps[slot] == 1 and self.tasks[slot].id.endswith("-0")
        return super()._see(slot, PAGE if long else text, won)


def play(limit=LIMIT, **options):
    return collect(
        TransformersEngine(scripted.policy(), TOKENIZER),
        TOKENIZER,
        LongPool(modulus=10_000),
        scripted.tasks(3),
        [0, 1, 2],
        settings=replace(scripted.SETTINGS, max_prompt_tokens=limit),
        seed=0,
        step=0,
        **({"skills": None} | options),
    )


def moment(name, observation, history=()):
    actions = ("<search>query</search>",) if name == "searchqa" else ("look", "wait")
    task = Task("task-1", "train", "any", "find the key.", "world/1")
    return Moment(task, tuple(history), observation, actions, len(history))


def test_one_long_page_is_cut_and_counted_and_the_rest_goes_on(caplog):
    with caplog.at_level(logging.WARNING, logger="sdar.rollout"):
        episodes = play()
    turns = [turn for episode in episodes for turn in episode.turns]
    assert [len(episode.turns) for episode in episodes] == [5, 5, 5]
    assert [turn.prompt.cut > 0 for turn in turns] == [False, True] + [False] * 13
    assert all(len(turn.prompt.token_ids) <= LIMIT for turn in turns)
    cut = turns[1].prompt
    text = cut.messages[-1]["content"]
    assert text.startswith("You are an agent in a house. Your task is to: find the key 0.")
    assert text.endswith("<action></action>.")
    assert "word 1 of the page" in text
    assert text.count(CUT) == 1
    assert turns[1].moment.observation == PAGE, "what there was to see is kept as it was"
    assert "1 of 15 prompts" in caplog.text
    assert "task train/task-0, turn 2" in caplog.text
    batch = StepBatch.from_episodes(episodes)
    assert rollout_measures(batch, 10)["train/cut_prompts"] == 1
    package = environment_package("alfworld")
    teaching = Teaching(TOKENIZER, package, Skills(), 2000)
    pairs = [(episode.task, turn) for episode in episodes for turn in episode.turns]
    for task, turn in pairs:
        turn.teacher = teaching.prompt(task, turn)
    assert teacher_measures(batch)["teacher/cut_prompts"] == 1


@pytest.mark.parametrize("with_skill", [False, True])
def test_the_teacher_reads_the_same_cut_text_and_the_whole_skill(with_skill):
    episodes = play(skills=Skills() if with_skill else None, limit=800 if with_skill else LIMIT)
    package = environment_package("alfworld")
    teaching = Teaching(TOKENIZER, package, Skills(), 2000)
    pairs = [(episode.task, turn) for episode in episodes for turn in episode.turns]
    assert any(turn.prompt.cut for _, turn in pairs)
    for task, turn in pairs:
        teacher = teaching.prompt(task, turn)
        assert teacher.prompt.messages[-1] == turn.prompt.messages[-1]
        assert teacher.prompt.messages[0]["content"] == SKILL
        assert teacher.prompt.cut == turn.prompt.cut


def test_a_lower_limit_of_the_teacher_cuts_more_and_never_the_skill():
    package = environment_package("alfworld")
    student = fit_prompt(TOKENIZER, package, moment("alfworld", PAGE), None, LIMIT)
    teacher = fit_prompt(
        TOKENIZER, package, moment("alfworld", PAGE), SKILL, LIMIT, cut=student.cut
    )
    assert teacher.cut > student.cut > 0
    assert SKILL in TOKENIZER.decode(teacher.token_ids)
    assert len(teacher.token_ids) <= LIMIT


@pytest.mark.parametrize("name", NAMES)
def test_in_every_environment_as_little_is_cut_as_needed(name):
    package = environment_package(name)
    history = [PastTurn("You saw the shelf.", "look"), PastTurn("The desk.", "wait")]
    seen = moment(name, PAGE, history)
    whole = package.build_messages(seen.without_oldest(2))[-1]["content"]
    for skill in (None, SKILL):
        prompt = fit_prompt(TOKENIZER, package, seen, skill, LIMIT)
        assert prompt.dropped_history == 2, "history goes first"
        text = prompt.messages[-1]["content"]
        begin, end = text.split(CUT)
        assert whole.startswith(begin)
        assert whole.endswith(end)
        assert len(whole) == len(begin) + prompt.cut + len(end)
        assert LIMIT - 12 <= len(prompt.token_ids) <= LIMIT


def test_a_long_list_of_actions_or_a_long_task_is_cut_too():
    package = environment_package("alfworld")
    base = moment("alfworld", "You see a shelf.")
    actions = replace(base, admissible_actions=tuple(f"go to shelf {n}" for n in range(500)))
    task = replace(base, task=replace(base.task, instruction=PAGE))
    for seen in (actions, task):
        prompt = fit_prompt(TOKENIZER, package, seen, None, LIMIT)
        assert len(prompt.token_ids) <= LIMIT
        assert prompt.messages[-1]["content"].endswith("<action></action>.")


def test_what_fits_is_not_touched():
    package = environment_package("alfworld")
    seen = moment("alfworld", "You see a shelf.")
    whole = fit_prompt(TOKENIZER, package, seen, None, 10_000)
    exact = fit_prompt(TOKENIZER, package, seen, None, len(whole.token_ids))
    assert exact == whole
    assert whole.cut == whole.dropped_history == 0
    less = fit_prompt(TOKENIZER, package, seen, None, len(whole.token_ids) - 1)
    assert less.cut > 0


def test_limits_that_no_prompt_fits_are_refused_beforehand():
    def check(student=600, teacher=900, **options):
        policy = {"max_prompt_tokens": student, "max_teacher_prompt_tokens": teacher}
        config = parse_config({"policy": policy | {"max_response_tokens": 8}})
        both = {"without_skill": True, "with_skill": True} | options
        check_limits(TOKENIZER, config, [*scripted.tasks(3), long], Skills(), **both)

    long = replace(scripted.tasks(1)[0], instruction=PAGE)
    check()
    with pytest.raises(SdarError, match=r"policy\.max_prompt_tokens: 20 .*raise policy\.max_pro"):
        check(student=20)
    check(student=20, without_skill=False)
    with pytest.raises(SdarError, match=r"policy\.max_teacher_prompt_tokens: 120 .*skill"):
        check(teacher=120)
    check(teacher=120, with_skill=False)
