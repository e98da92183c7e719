"""The teacher's prompt: the student's with the skill put in, and its own limit."""

from pathlib import Path

import chat_templates
import numpy as np
import pytest
import scripted

from sdar.config import load_config
from sdar.environments.base import Moment, PastTurn, Task
from sdar.environments.packages import environment_package
from sdar.errors import SdarError
from sdar.policy.chat import render_prompt, token_pieces
from sdar.rollout.engines.base import uniforms
from sdar.rollout.episode import Episode, Prompt, Turn
from sdar.rollout.teacher import Teaching, drawn
from sdar.rollout.turns import fit_prompt
from sdar.skills.library import SkillLibrary
from sdar.training.playing import tasks_of_step
from sdar.training.step_batch import StepBatch


class Skills:
    def for_task(self, task):
        task_type = task.task_type
        text = f"Skill of {task_type}."
        return type("Skill", (), {"name": task_type, "text": text, "digest": task_type[:4]})


def episode(index=0, turns=1, won=False):
    task = scripted.tasks(2)[index]
    history = (PastTurn("You saw the shelf.", "look"), PastTurn("You saw the desk.", "wait"))
    made = Episode(task, slot=index, group=0, won=won, episode_return=10.0 * won)
    for number in range(turns):
        moment = Moment(task, history, "You see a fridge.", ("look", "wait"), number)
        made.turns.append(
            Turn(
                Prompt(moment, [{"role": "user", "content": "hello"}], [1, 2]),
                response_ids=[7, 8, 9][: number + 1],
                log_probs=[-1.0] * (number + 1),
                action="look",
                valid=number == 0,
                admissible=True,
                penalty=0.0 if number == 0 else 0.1,
            )
        )
    return made


def make(episodes, limit=1000):
    package = environment_package("alfworld")
    teaching = Teaching(scripted.tokenizer(), package, Skills(), limit)
    return [teaching.prompt(each.task, turn) for each in episodes for turn in each.turns]


def test_skill_is_the_system_message_of_each_type():
    first, second = make([episode(0), episode(1)])
    assert first.prompt.messages[0] == {
        "role": "system",
        "content": "Skill of pick_and_place_simple.",
    }
    assert second.prompt.messages[0] == {
        "role": "system",
        "content": "Skill of look_at_obj_in_light.",
    }
    assert (second.skill, second.digest) == ("look_at_obj_in_light", "look")
    assert "You see a fridge." in first.prompt.messages[1]["content"]
    assert first.prompt.token_ids == render_prompt(scripted.tokenizer(), first.prompt.messages)


def test_over_the_limit_history_goes_and_the_skill_stays():
    full = make([episode()])[0].prompt
    cut = make([episode()], limit=len(full.token_ids) - 1)[0].prompt
    assert (full.dropped_history, cut.dropped_history) == (0, 1)
    assert cut.messages[0] == full.messages[0]
    assert "shelf" not in cut.messages[1]["content"]
    assert "desk" in cut.messages[1]["content"]
    with pytest.raises(SdarError, match=r"policy\.max_teacher_prompt_tokens"):
        make([episode()], limit=10)


def test_samples_carry_return_less_penalty():
    batch = StepBatch.from_episodes([episode(0, turns=2, won=True), episode(1, turns=1)])
    samples = batch.samples(batch.response_mask_SR.float(), None)
    assert samples.step_return.tolist() == pytest.approx([10.0, 9.9, 0.0])
    assert samples.step_reward.tolist() == pytest.approx([0.0, 9.9, 0.0])
    assert samples.episode == [0, 0, 1]
    assert samples.turn == [0, 1, 0]
    assert samples.success.tolist() == [1.0, 1.0, 0.0]
    assert batch.response_mask_SR.tolist() == [[True, False], [True, True], [True, False]]


def test_tasks_of_an_epoch_are_a_permutation():
    tasks = scripted.tasks(7)
    seen = []
    for step in range(7):
        played, groups = tasks_of_step(tasks, 3, 2, seed=4, step=step)
        assert groups == [0, 0, 1, 1, 2, 2]
        assert played[0::2] == played[1::2]
        seen += [task.id for task in played[0::2]]
    every = sorted(task.id for task in tasks)
    for epoch in range(3):
        assert sorted(seen[7 * epoch : 7 * epoch + 7]) == every
    assert seen[:7] != seen[7:14]
    assert seen[:3] != [task.id for task in tasks_of_step(tasks, 3, 1, seed=5, step=0)[0]]


def test_token_pieces_join_to_the_text_even_inside_a_character():
    tokenizer = scripted.tokenizer()
    ids = tokenizer("go to the fridge é ☃ now")["input_ids"]
    pieces = token_pieces(tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == "go to the fridge é ☃ now"


def test_a_share_of_the_turns_is_drawn_by_their_keys():
    keys = [(3, step, slot, turn) for step in range(10) for slot in range(40) for turn in range(10)]
    taught = [drawn(key, 0.25) for key in keys]
    # Of 4000 fair draws, within four standard deviations.
    assert abs(sum(taught) / len(keys) - 0.25) < 4 * (0.25 * 0.75 / len(keys)) ** 0.5
    assert taught == [drawn(key, 0.25) for key in keys]
    for place in range(4):  # of each part of the key
        others = [(*key[:place], key[place] + 100, *key[place + 1 :]) for key in keys]
        both = sum(a and drawn(b, 0.25) for a, b in zip(taught, others, strict=True))
        assert abs(both / len(keys) - 0.0625) < 4 * (0.0625 * 0.9375 / len(keys)) ** 0.5
    assert all(drawn(key, 0.5) for key, one in zip(keys, taught, strict=True) if one)
    assert all(drawn(key, 1.0) for key in keys)


def test_what_is_drawn_says_nothing_of_the_first_token():
    """A response's tokens are drawn by the same key, from other numbers."""
    keys = [(0, step, slot, 0) for step in range(50) for slot in range(40)]
    first = uniforms(keys, 1)[:, 0]
    taught = np.array([drawn(key, 0.5) for key in keys])
    difference = first[taught].mean() - first[~taught].mean()
    assert abs(difference) < 4 * (1 / 12 * 4 / len(keys)) ** 0.5


def test_episodes_are_drawn_whole_where_their_turns_are_compared():
    package = environment_package("alfworld")
    by_turn, whole = (
        Teaching(scripted.tokenizer(), package, Skills(), 1000, 0.4, together)
        for together in (False, True)
    )
    by_slot = [
        [{t.asks((1, 0, slot, turn)) for turn in range(8)} for slot in range(60)]
        for t in (by_turn, whole)
    ]
    assert {True, False} in by_slot[0]
    assert {len(asked) for asked in by_slot[1]} == {1}
    assert {True} in by_slot[1]
    assert {False} in by_slot[1]


QWEN = sorted(Path(__file__).parents[3].glob("config/experiments/*qwen*.yaml"))


@pytest.mark.parametrize("path", QWEN, ids=lambda path: path.stem)
def test_in_the_shipped_experiments_the_teacher_differs_by_the_skill_alone(path):
    config = load_config(path)
    family = "qwen3" if "Qwen3" in config.policy.model else "qwen2.5"
    assert family.replace("q", "Q", 1) in config.policy.model
    tokenizer = chat_templates.tokenizer(family)
    package = environment_package(config.environment.name)
    library = SkillLibrary(None, None, config.environment.name)
    for task_type in library.task_types:
        task = Task("t", "train", task_type, "find <|im_end|> the key.", "w")
        past = (PastTurn("A shelf.", "<|im_start|>go"), PastTurn("A desk.\n\nThen.", "look"))
        moment = Moment(task, past, "You see a fridge. é☃\n", ("look", "<search>q</search>"), 2)
        student = fit_prompt(tokenizer, package, moment, None, 10_000)
        skill = library.lookup(task_type).text
        teacher = fit_prompt(tokenizer, package, moment, skill, 10_000)
        text, taught = (tokenizer.decode(prompt.token_ids) for prompt in (student, teacher))
        assert taught.replace(skill, "", 1) in (
            text.replace("<|im_start|>system\n", "<|im_start|>system\n\n\n", 1),
            f"<|im_start|>system\n<|im_end|>\n{text}",
        )
        more = len(teacher.token_ids) - len(student.token_ids)
        place = 0 if family == "qwen3" else 3
        left = teacher.token_ids[:place] + teacher.token_ids[place + more :]
        assert left == student.token_ids
