"""What evaluation and training record of an episode beside its tokens, and send to MLflow."""

import json
import re

import polars as pl
import pytest
import scripted
import trainer_world

from sdar.config import ExperimentConfig
from sdar.environments.alfworld.package import PACKAGE
from sdar.environments.alfworld.practice import practice
from sdar.environments.base import Moment, Observation, Task
from sdar.evaluation.scoring import score_episode
from sdar.evaluation.second_opinions import expert_actions, greedy_actions
from sdar.evaluation.token_rows import token_rows
from sdar.policy.chat import token_pieces
from sdar.records.tables import TOKENS, tokens_table
from sdar.rollout.collector import collect
from sdar.rollout.engines.base import Generation
from sdar.rollout.engines.transformers import TransformersEngine
from sdar.rollout.episode import Episode, Prompt, Turn
from sdar.rollout.settings import RolloutSettings
from sdar.skills.library import SkillLibrary
from sdar.tracking.recorder import RunRecorder


def turn(task: Task, index: int, seen: Observation, action: str, after: Observation) -> Turn:
    moment = Moment(task, (), seen.text, seen.admissible_actions, index)
    return Turn(
        Prompt(moment, [], [1]),
        response_ids=[2],
        log_probs=[0.0],
        action=action,
        valid=True,
        next_observation=after.text,
        admissible=True,
    )


def test_the_expert_is_shown_the_episode_as_it_went():
    """An episode that the expert played itself, then one in which somebody else acted."""
    config = ExperimentConfig()
    # Episodes of the warm start with the hint: the expert of the game knows the habits.
    game = next(g for g in (practice(config, i) for i in range(20)) if g.hinted)
    episode, first, actions = Episode(game.task, 0, 0), game.observation, []
    for index in range(6):
        seen, (_, action) = game.observation, game.expert_turn()
        after = game.step(action)
        actions.append(action)
        episode.turns.append(turn(game.task, index, seen, action, after))
        if after.won:
            break
    assert len(actions) > 2
    assert expert_actions(PACKAGE, episode, game.knowledge) == actions

    other = game.knowledge and PACKAGE.expert(game.task, first, game.knowledge)
    inert = Episode(game.task, 0, 0)
    inert.turns = [turn(game.task, index, first, "look", first) for index in range(3)]
    assert expert_actions(PACKAGE, inert, game.knowledge) == [other.act()[1]] * 3


def test_an_expert_that_fails_is_silent_from_there_on():
    class Expert:
        turns = 0

        def act(self):
            if self.turns == 2:
                raise StopIteration
            return "thought", f"action {self.turns}"

        def observe(self, action, observation):
            self.turns += 1

    class Package:
        def expert(self, task, first, knowledge):
            return Expert()

    seen = Observation("", (), won=False, done=False)
    episode = Episode(scripted.tasks(1)[0], 0, 0)
    episode.turns = [turn(episode.task, index, seen, "x", seen) for index in range(4)]
    assert expert_actions(Package(), episode, None) == ["action 0", "action 1", None, None]


def test_greedy_actions_come_in_the_order_of_the_prompts():
    calls = []

    class Engine:
        def generate(self, prompt_ids, keys, *, max_new_tokens, temperature):
            calls.append((len(prompt_ids), temperature))
            texts = [f"<think>t</think><action>Go {ids[0]}</action>" for ids in prompt_ids]
            ids = [scripted.tokenizer()(text).input_ids for text in texts]
            return [Generation(token_ids, [0.0] * len(token_ids)) for token_ids in ids]

    actions = greedy_actions(
        Engine(),
        scripted.tokenizer(),
        PACKAGE,
        [[n] for n in range(5)],
        max_new_tokens=30,
        batch=2,
    )
    assert actions == [f"go {n}" for n in range(5)]
    assert calls == [(2, 0.0), (2, 0.0), (1, 0.0)]


@pytest.fixture(scope="module")
def greedy_rows():
    """Rows of an episode that was played greedily, without the skill."""
    config = trainer_world.configuration()
    config = config.model_copy(
        update={"policy": config.policy.model_copy(update={"max_teacher_prompt_tokens": 900})}
    )
    model, tokenizer = scripted.policy(spread=0.3), scripted.tokenizer()
    engine = TransformersEngine(model, tokenizer)
    (episode,) = collect(
        engine,
        tokenizer,
        scripted.ScriptedPool(modulus=3),
        scripted.tasks(1),
        [0],
        settings=RolloutSettings.from_config(config, temperature=0.0),
        skills=None,
        seed=0,
        step=0,
    )
    engine = TransformersEngine(model, tokenizer)
    scored = score_episode(model, tokenizer, episode, SkillLibrary(), config, engine=engine)
    identity = {"method": "grpo", "seed": 0, "with_skill": False, "panel": "valid_seen"}
    rows = token_rows(episode, scored, identity | {"evaluation_seed": 0, "episode": "e"})
    return episode, pl.DataFrame(tokens_table(rows))


def test_a_greedy_student_agrees_with_itself(greedy_rows):
    _, rows = greedy_rows
    assert (rows["student_greedy_action"] == rows["action"]).all()
    assert rows["teacher_greedy_action"].null_count() == 0
    # The scripted world is no ALFWorld task, so nobody can say what an expert would do.
    assert rows["expert_action"].null_count() == rows.height


def test_rows_name_token_ids_sampling_log_probs_and_skill(greedy_rows):
    episode, rows = greedy_rows
    assert rows.columns == TOKENS.names
    ids = [token_id for turn in episode.turns for token_id in turn.response_ids]
    assert rows["token_id"].to_list() == ids
    sampled = [value for turn in episode.turns for value in turn.log_probs]
    assert rows["old_log_prob"].to_list() == pytest.approx(sampled)
    assert rows["student_log_prob"].to_list() == pytest.approx(sampled, abs=1e-4)
    for index, turn in enumerate(episode.turns):
        pieces = rows.filter(turn=index)["token"].to_list()
        assert pieces == token_pieces(scripted.tokenizer(), turn.response_ids)
    row = rows.row(0, named=True)
    skill = SkillLibrary().lookup(episode.task.task_type)
    assert (row["skill"], row["skill_digest"], row["skill_text"]) == (
        skill.name,
        skill.digest,
        skill.text,
    )
    assert row["skill_text"] in row["teacher_prompt"]
    assert row["skill_text"] not in row["student_prompt"]
    assert rows["advantage"].null_count() == rows["reference_log_prob"].null_count() == rows.height


def test_training_records_every_number_and_sends_files_and_pages(tmp_path, monkeypatch):
    sent = []

    def artifact(self, path, artifact_path=None):
        sent.append((path.name, artifact_path, path.is_file()))

    monkeypatch.setattr(RunRecorder, "artifact", artifact)
    folder = trainer_world.run(tmp_path, steps=1)
    assert ("step-00000.parquet", "tokens", True) in sent
    assert ("step-00000.html", "pages", True) in sent
    rows = pl.read_parquet(folder / "tokens" / "step-00000.parquet")
    assert set(TOKENS.names) <= set(rows.columns)
    measured = ("student", "teacher", "reference", "old")
    for name in (*(f"{who}_log_prob" for who in measured), "gap", "gate", "advantage"):
        assert rows[name].null_count() == 0, name
    assert set(rows["step"]) == {0}
    assert rows["token_id"].null_count() == rows["token_class"].null_count() == 0
    row = rows.row(0, named=True)
    assert row["skill"] == row["task_type"]
    assert row["skill_text"] == f"The key of {row['task_type']} is usually in the fridge."
    assert row["skill_digest"] == str(len(row["skill_text"]))
    page = (folder / "tokens" / "step-00000.html").read_text("utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    turns = [turn for episode in data["episodes"] for turn in episode["turns"]]
    assert sum(len(turn["tokens"]) for turn in turns) == rows.height
    assert data["episodes"][0]["source"] == "sdar/seed-0, step 0"


def test_steps_that_are_run_again_lose_their_files_and_pages(tmp_path):
    from sdar.training.token_records import drop_tokens

    for step in (0, 2, 4):
        for kind in ("parquet", "html"):
            (tmp_path / f"step-{step:05d}.{kind}").touch()
    drop_tokens(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000.html",
        "step-00000.parquet",
    ]


def test_an_evaluation_sends_its_tokens_and_their_page(tmp_path, monkeypatch):
    import test_evaluation

    policy = test_evaluation.save_policy(tmp_path / "policy")
    config, layout = test_evaluation.experiment(tmp_path / "root", policy)
    sent = []
    monkeypatch.setattr(
        RunRecorder,
        "artifact",
        lambda self, path, into=None: sent.append((path.name, into, path.is_file())),
    )
    test_evaluation.run(monkeypatch, config, layout)
    assert ("tokens.parquet", "tokens", True) in sent
    assert ("episodes.html", "pages", True) in sent
    page = (layout.evaluation("grpo", 3) / "episodes.html").read_text("utf-8")
    tokens = pl.read_parquet(layout.evaluation("grpo", 3) / "tokens.parquet")
    assert all(json.dumps(name) in page for name in tokens["task_id"].unique())
