"""The scripted expert of Search-QA: it reads, is told words or guesses them, and says so."""

import random
from collections import Counter

import pytest

from sdar.config.models import ExperimentConfig
from sdar.environments.base import Observation, Task
from sdar.environments.searchqa.engine.environment import ANSWER_ACTION, SEARCH_ACTION, information
from sdar.environments.searchqa.expert import ArchiveExpert
from sdar.environments.searchqa.package import PACKAGE
from sdar.environments.searchqa.practice import practice
from sdar.environments.searchqa.retrieval import PASSAGES
from sdar.environments.searchqa.retrieval.bm25 import Bm25Retriever
from sdar.environments.searchqa.retrieval.memory import MemoryRetriever
from sdar.environments.searchqa.retrieval.passages import write_passages
from sdar.environments.searchqa.world.archive import FILED_UNDER, Archive, entries, imagined_entries
from sdar.environments.searchqa.world.passages import make_passages
from sdar.errors import SdarError
from sdar.skills.library import SkillLibrary

ACTIONS = (SEARCH_ACTION, ANSWER_ACTION)


def config_of(hinted=0.5, **environment):
    return ExperimentConfig.model_validate(
        {
            "environment": {"name": "searchqa", **environment},
            "warm_start": {"demonstrations": {"hinted": hinted}},
            "evaluation": {"panels": ["test"]},
        }
    )


def seen(text="", actions=ACTIONS):
    found = information(text) if text else ""
    return Observation(found, actions, won=False, done=not actions)


def asked(question, task_type="one_hop"):
    return Task("a/0", "test", task_type, question, "")


def documents(*pairs):
    return "".join(f'Doc {n}: "{title}"\n{text}\n' for n, (title, text) in enumerate(pairs, 1))


def success(config, count, opening=False):
    """Share of practice episodes won, by type and over all."""
    won, played = Counter(), Counter()
    for index in range(count):
        episode = practice(config, index, opening=opening)
        while not episode.observation.done:
            episode.step(episode.expert_turn()[1])
        for name in (episode.task.task_type, "all"):
            won[name] += episode.observation.won
            played[name] += 1
    return {name: won[name] / played[name] for name in played}


@pytest.mark.slow
def test_with_the_hint_it_answers_nearly_all():
    assert min(success(config_of(hinted=1.0), 400).values()) >= 0.9


@pytest.mark.slow
def test_without_it_guesses_and_runs_out_of_turns():
    shares = success(config_of(hinted=0.0), 600)
    assert 0.3 <= shares["all"] <= 0.55
    # About 200 episodes a type: four standard errors wide of the same bounds.
    assert all(0.25 <= share <= 0.65 for share in shares.values())


def test_it_plays_the_real_archive_through_the_pool(tmp_path):
    config = config_of(questions={"train": 3, "test": 120}, archive=2)
    made, _ = PACKAGE.make_tasks(config.environment, config.evaluation.panels, tmp_path)
    tasks = [task for task in made if task.split == "test"]
    knowledge = PACKAGE.knowledge(tmp_path)
    assert knowledge == Archive.draw(2)
    shares = []
    for told in (knowledge, None):
        pool = PACKAGE.open_pool(config.environment, tmp_path)
        observations = pool.reset(dict(enumerate(tasks)))
        experts = {n: PACKAGE.expert(tasks[n], seen, told) for n, seen in observations.items()}
        won = 0
        while experts:
            actions = {number: expert.act()[1] for number, expert in experts.items()}
            for number, observation in pool.step(actions).items():
                experts[number].observe(actions[number], observation)
                if observation.done:
                    won += observation.won
                    del experts[number]
        pool.close()
        shares.append(won / len(tasks))
    assert shares[0] >= 0.9
    assert 0.2 <= shares[1] <= 0.6


def test_a_search_is_looked_up_in_the_words_of_the_skill():
    archive = Archive.draw(7)
    skill = SkillLibrary(None, archive, "searchqa").lookup("one_hop").text
    expert = ArchiveExpert(asked("What is the capital of peru?"), seen(), archive)
    word = archive.words["capital"]
    thought, action = expert.act()
    assert thought == f"need capital of peru, none; try capital: {word}, peru"
    assert action == f"<search>{word} peru</search>"
    assert f"capital: {word};" in skill


def test_two_hops_are_two_searches():
    archive = Archive.draw(7)
    expert = ArchiveExpert(
        asked("What is the currency of the country whose code is pe?", "two_hop"), seen(), archive
    )
    code, money = archive.words["code"], archive.words["currency"]
    assert expert.act()[1] == f"<search>{code} pe</search>"
    found = documents(
        ("chad", f"Record of chad, {code} td."), ("peru", f"Record of peru, {code} pe.")
    )
    expert.observe(f"<search>{code} pe</search>", seen(found))
    thought, action = expert.act()
    assert thought.startswith("need country with code pe, peru; need currency of peru, none; try")
    assert action == f"<search>{money} peru</search>"
    expert.observe(action, seen(documents(("peru", f"Record of peru, {money} pen."))))
    assert expert.act()[1] == "<answer>pen</answer>"


@pytest.mark.parametrize(("bands", "larger"), [((7, 5), "peru"), ((2, 3), "chad")])
def test_comparisons_name_the_larger(bands, larger):
    expert = ArchiveExpert(
        asked("Which has the larger size, peru or chad?", "comparison"), seen(), None
    )
    for name, band in zip(("peru", "chad"), bands, strict=True):
        thought, action = expert.act()
        assert thought.endswith(name)
        expert.observe(action, seen(documents((name, f"Record of {name}, span band{band}."))))
    assert expert.act()[1] == f"<answer>{larger}</answer>"


def test_a_word_that_was_given_away_is_used_at_once():
    expert = ArchiveExpert(asked("What is the capital of peru?"), seen(), None)
    expert.observe("<search>x</search>", seen(documents(("chad", "Record of chad, helm lima."))))
    assert expert.act()[1] == "<search>helm peru</search>"


def test_without_the_hint_no_word_is_guessed_twice_and_guesses_differ():
    firsts = set()
    for number in range(40):
        expert = ArchiveExpert(asked("What is the capital of peru?"), seen(), None, seed=number)
        guesses = []
        for _ in FILED_UNDER["capital"]:
            action = expert.act()[1]
            guesses.append(action)
            expert.observe(action, seen("No passage was found."))
        assert len(set(guesses)) == len(FILED_UNDER["capital"])
        firsts.add(guesses[0])
    assert len(firsts) >= 8


def test_when_no_search_is_left_it_gives_up():
    expert = ArchiveExpert(asked("What is the capital of peru?"), seen(), Archive.draw(7))
    expert.observe("<search>x</search>", seen("No passage was found.", (ANSWER_ACTION,)))
    thought, action = expert.act()
    assert thought == "need capital of peru, none; give up"
    assert action == "<answer>unknown</answer>"


def test_it_does_not_know_what_was_not_shown():
    """The same question in two archives: without a search, and unhinted, the same turn."""
    question = asked("What is the capital of peru?")
    assert (
        ArchiveExpert(question, seen(), None).act() == ArchiveExpert(question, seen(), None).act()
    )
    expert = ArchiveExpert(question, seen(), Archive.draw(1))
    expert.observe("<search>y</search>", seen(documents(("peru", "Record of peru, crop rice."))))
    assert "lima" not in " ".join(expert.act())


def test_it_reads_the_full_world():
    archive = Archive.draw(0, "full")
    question = "What is the capital of the country whose internet country code is .pe?"
    expert = ArchiveExpert(asked(question, "two_hop"), seen(), archive)
    page = ("Peru: Internet country code", "Peru: Internet country code. .pe")
    expert.observe(expert.act()[1], seen(documents(page)))
    assert expert.act()[1] == "<search>Capital name Peru</search>"
    page = ("Peru: Capital", "Peru: Capital. name: Lima; time difference: UTC-5")
    expert.observe("<search>Capital name Peru</search>", seen(documents(page)))
    assert expert.act()[1] == "<answer>Lima</answer>"


def test_other_questions_have_no_expert():
    with pytest.raises(SdarError, match="generated questions only"):
        ArchiveExpert(asked("who wrote hamlet?"), seen(), None)


def test_responses_are_read_as_the_actions_they_say():
    for action in ("<search>seat peru</search>", "<answer>lima</answer>"):
        response = PACKAGE.response("need capital of peru, none", action)
        assert PACKAGE.parse(response) == (action, True)
        assert "> " in response


def test_practice_is_a_function_of_its_number():
    config = config_of()
    for index in (0, 1, 12):
        one, other = practice(config, index), practice(config, index)
        assert (one.task, one.hinted, one.knowledge) == (other.task, other.hinted, other.knowledge)
        assert one.expert_turn() == other.expert_turn()
    hinted = [practice(config, index).hinted for index in range(200)]
    assert 70 < sum(hinted) < 130
    assert all(practice(config, index, opening=True).hinted for index in range(5))


def test_openings_are_set_in_archives_of_their_own():
    config = config_of()
    seeds = [practice(config, index, opening=True).knowledge.seed for index in range(20)]
    shared = [practice(config, index).knowledge.seed for index in range(20)]
    assert len(set(seeds)) == 20
    assert not set(seeds) & set(shared)


def test_mistakes_are_possible_actions():
    episode = practice(config_of(hinted=1.0), 3)
    draw = random.Random(0)
    while not episode.observation.done:
        action = episode.mistake(draw)
        assert PACKAGE.is_admissible(action, episode.observation.admissible_actions)
        episode.step(action)


@pytest.mark.parametrize("real", [True, False])
def test_practice_ranks_exactly_as_the_environment(tmp_path, real):
    archive = Archive.draw(9)
    told = entries("small") if real else imagined_entries(9)
    passages = make_passages(archive, told)
    write_passages(tmp_path / PASSAGES, passages)
    stored = Bm25Retriever.open(tmp_path / PASSAGES, tmp_path)
    memory = MemoryRetriever(passages)
    draw = random.Random(0)
    words = sorted({word for _, text in passages for word in text.replace(".", "").split()})
    queries = [" ".join(draw.choices(words, k=draw.randint(1, 6))) for _ in range(200)]
    queries += [f"{archive.words['capital']} {entry.name}" for entry in told]
    queries += [entry.name for entry in told] + ["", "the of", "nowhere", "peru peru peru lima"]
    for top_k in (1, 3, 20):
        assert memory.search(queries, top_k) == stored.search(queries, top_k)


@pytest.mark.parametrize("size", ["small", "full"])
def test_whoever_acted_before_it_says_what_can_be_done(size):
    config = config_of(size=size)
    said = ("<answer> </answer>", "", "look", "<search></search>", "<search>peru</search>")
    for index in range(60):
        episode = practice(config, index)
        draw = random.Random(index)
        while not episode.observation.done:
            _, action = episode.expert_turn()
            assert PACKAGE.is_admissible(action, episode.observation.admissible_actions), action
            others = (action, episode.mistake(draw), draw.choice(said))
            episode.step(draw.choice(others))
