"""Generated questions: real facts, two searches for two hops, and no country on both sides."""

import random
import re
from collections import Counter

import pytest

from sdar.config.models import ExperimentConfig
from sdar.environments.searchqa.engine.environment import describe
from sdar.environments.searchqa.engine.scoring import exact_match
from sdar.environments.searchqa.retrieval.bm25 import query_words
from sdar.environments.searchqa.retrieval.memory import MemoryRetriever
from sdar.environments.searchqa.tasks import make_tasks, read_archive
from sdar.environments.searchqa.world import questions as q
from sdar.environments.searchqa.world.archive import (
    COMPARED,
    FILED_UNDER,
    KINDS,
    PRACTICE_COUNTRIES,
    Archive,
    entries,
    imagined_entries,
    label,
    small_names,
)
from sdar.environments.searchqa.world.facts import clean, countries
from sdar.environments.searchqa.world.passages import make_passages, read_results
from sdar.errors import SdarError

TYPES = ("one_hop", "two_hop", "comparison")


def by_value(size, kind):
    return {e.facts[kind].value: e for e in entries(size) if kind in e.facts}


def generated(size, split="test", count=150, seed=0):
    return q.make_questions(size, entries(size), split, count, TYPES, seed)


def countries_in(asked):
    """The countries a small question is about."""
    if asked.via is None:
        return set(asked.subjects)
    return {by_value("small", asked.via)[asked.subjects[0]].name}


@pytest.mark.slow
def test_facts_are_read_from_the_factbook():
    told = {country.name: country for country in countries()}
    peru = {kind: fact.value for kind, fact in told["Peru"].facts.items()}
    assert peru["capital"] == "Lima"
    assert peru["code"] == ".pe"
    assert peru["border"] == "Brazil"
    assert peru["independence"] == "1821"
    assert told["Peru"].facts["size"].number == 1285216
    assert "PEN" in told["Peru"].facts["currency"].targets
    assert told["Brazil"].facts["capital"].targets == ("Brasília", "Brasilia")
    assert "Republic of Peru" in told["Peru"].aliases


@pytest.mark.parametrize("name", ["Bolivia", "Benin", "Nauru"])
def test_a_country_without_one_capital_has_no_such_fact(name):
    told = {country.name: country for country in countries()}
    assert "capital" not in told[name].facts


def test_texts_are_clean():
    texts = [field.text for country in countries() for field in country.fields]
    assert len(texts) > 30_000
    assert not [text for text in texts if re.search(r"<\w+>|&[a-z]+;|\(20\d\d est\.\)|\xa0", text)]


def test_clean_removes_markup_entities_and_estimates():
    raw = "<p>Bras&iacute;lia&nbsp; 5.1% (2025 est.)</p><br>  next"
    assert clean(raw) == "Brasília 5.1% next"


def test_everything_in_the_small_world_is_one_word_that_a_search_keeps():
    told = entries("small")
    assert 80 <= len(told) <= 120
    for word in small_names():
        assert query_words(word) == [word]
    for entry in told:
        assert set(entry.facts) == set(KINDS)


def test_keys_of_descriptions_mean_one_thing():
    meant = Counter(
        word
        for entry in entries("small")
        for word in (entry.name, entry.facts["capital"].value, entry.facts["code"].value)
    )
    assert set(meant.values()) == {1}


def test_words_of_archives_are_of_one_kind_and_never_the_everyday_word():
    words = [word for kind in FILED_UNDER.values() for word in kind]
    assert len(words) == len(set(words))
    values = {fact.value for entry in entries("small") for fact in entry.facts.values()}
    names = {entry.name for entry in entries("small")}
    assert not set(words) & (set(KINDS) | values | names)


def test_archives_differ_and_habits_tell_their_words():
    first, second = Archive.draw(1), Archive.draw(2)
    assert first == Archive.draw(1)
    assert first.words != second.words
    told = first.habits_text("two_hop")
    for kind, word in first.words.items():
        assert (f"{kind}: {word}" in told) == (kind not in COMPARED)
        assert (f"{kind}: {word}" in first.habits_text("comparison")) == (kind in COMPARED)


def test_archives_are_written_and_read(tmp_path):
    archive = Archive.draw(3)
    archive.write(tmp_path / "archive.json")
    assert Archive.read(tmp_path / "archive.json") == archive
    (tmp_path / "archive.json").write_text('{"seed": 3}')
    with pytest.raises(SdarError, match=r"archive\.json is not a readable archive"):
        Archive.read(tmp_path / "archive.json")


def test_imagined_facts_are_not_the_real_ones():
    told = imagined_entries(5)
    assert told == imagined_entries(5)
    assert len({entry.name for entry in told}) == PRACTICE_COUNTRIES
    assert len({entry.facts["capital"].value for entry in told}) == PRACTICE_COUNTRIES
    real = {entry.name: entry.facts["capital"].value for entry in entries("small")}
    true = [entry for entry in told if real[entry.name] == entry.facts["capital"].value]
    assert len(true) < 3


@pytest.mark.parametrize("size", ["small", "full"])
def test_every_question_can_be_read_back(size):
    told = q.split_entries(entries(size), 0)["test"]
    for task_type in TYPES:
        every = list(q.candidates(task_type, size, told))
        for asked, _ in random.Random(0).sample(every, 140):
            assert q.parse_question(asked.text) == asked
            assert asked.task_type == task_type


def test_other_questions_are_refused_by_name():
    with pytest.raises(SdarError, match="who wrote hamlet"):
        q.parse_question("who wrote hamlet?")


@pytest.mark.parametrize("seed", [0, 1])
def test_train_and_test_ask_about_different_countries(seed):
    sides = []
    for split, count in (("train", 400), ("test", 300)):
        made = q.make_questions("small", entries("small"), split, count, TYPES, seed)
        assert len({question.question for question in made}) == count
        assert len({question.id for question in made}) == count
        sides.append(set().union(*(countries_in(q.parse_question(m.question)) for m in made)))
    assert not sides[0] & sides[1]
    assert len(sides[0]) > len(sides[1]) > 20


def test_questions_are_a_function_of_the_seed():
    assert generated("small") == generated("small")
    assert generated("small") != generated("small", seed=1)


def test_types_and_kinds_take_turns():
    made = generated("small")
    assert set(Counter(m.metadata["task_type"] for m in made).values()) == {50}
    two_hop = Counter(m.data_source for m in made if m.data_source.startswith("two_hop"))
    assert len(two_hop) == 8
    assert max(two_hop.values()) - min(two_hop.values()) <= 1


def test_more_questions_than_there_are_is_refused():
    with pytest.raises(SdarError, match=r"environment\.questions\.test: 2000 .* lower it"):
        generated("small", count=2000)


@pytest.mark.parametrize("size", ["small", "full"])
def test_answers_are_true(size):
    told = {entry.name: entry for entry in entries(size)}
    for made in generated(size):
        asked = q.parse_question(made.question)
        if asked.task_type == "comparison":
            numbers = [told[name].facts[asked.kind].number for name in asked.subjects]
            assert made.targets[0] == asked.subjects[numbers.index(max(numbers))]
            continue
        subject = asked.subjects[0]
        if asked.via in q.FORWARD:
            subject = q.by_name()[told[subject].facts[asked.via].value.lower()].name
        elif asked.via is not None:
            subject = by_value(size, asked.via)[subject].name
        assert made.targets[0] == told[subject].facts[asked.kind].value
        for target in made.targets:
            assert exact_match(f"<answer>{target}</answer>", made.targets)


def test_a_country_as_an_answer_has_all_its_names():
    usa = next(
        answer
        for asked, answer in q.candidates("one_hop", "full", entries("full"))
        if asked.kind == "border" and asked.subjects == ("Canada",)
    )
    assert {"United States", "US", "United States of America"} <= set(usa.targets)


def recall(size, limit):
    """Share of the needed passages among the top 3, by how they are searched for."""
    told, archive = entries(size), Archive.draw(0, size)
    retriever = MemoryRetriever(make_passages(archive, told))

    def found(query, kind, subject):
        results = read_results(describe(retriever.search([query], 3)[0]))
        return any(s.kind == kind and s.subject == subject for s in results)

    hits = {}
    for task_type in ("one_hop", "two_hop"):
        every = [
            asked for asked, _ in q.candidates(task_type, size, told) if asked.via not in q.FORWARD
        ]
        for asked in random.Random(0).sample(every, limit):
            kind, about = asked.kind, asked.subjects[0]
            if asked.via is not None:
                key, about = about, by_value(size, asked.via)[about].name
                query = f"{archive.words[asked.via]} {key}"
                hits.setdefault("first hop", []).append(found(query, asked.via, about))
                hits.setdefault("one query", []).append(found(asked.text, kind, about))
            else:
                hits.setdefault("question", []).append(found(asked.text, kind, about))
            hits.setdefault("filed word", []).append(
                found(f"{archive.words[kind]} {about}", kind, about)
            )
            hits.setdefault("everyday word", []).append(
                found(f"{label(kind, size)} {about}", kind, about)
            )
    return {name: sum(values) / len(values) for name, values in hits.items()}


def test_the_small_archive_answers_to_its_own_words_only():
    shares = recall("small", 300)
    assert shares["filed word"] == shares["first hop"] == 1
    # Three of a country's ten passages, whatever they are.
    assert 0.2 < shares["everyday word"] < 0.4
    assert 0.2 < shares["question"] < 0.4
    assert shares["one query"] < 0.05


@pytest.mark.slow
def test_two_hops_need_two_searches_in_the_full_world():
    shares = recall("full", 400)
    assert shares["question"] > 0.8
    assert shares["filed word"] > 0.95
    assert shares["first hop"] > 0.9
    assert shares["one query"] < 0.1


def config_of(**environment):
    panels = environment.pop("panels", ("test",))
    values = {"environment": {"name": "searchqa", **environment}, "evaluation": {"panels": panels}}
    if "data" in environment:
        values |= {"policy": {"model": "some/model"}, "warm_start": {"enabled": False}}
    return ExperimentConfig.model_validate(values)


def made(config, folder):
    return make_tasks(config.environment, config.evaluation.panels, folder)


def test_tasks_are_generated_with_their_archive(tmp_path):
    config = config_of(questions={"train": 12, "test": 9}, archive=4)
    tasks, source = made(config, tmp_path)
    assert [task.split for task in tasks] == ["train"] * 12 + ["test"] * 9
    assert Counter(task.task_type for task in tasks) == dict.fromkeys(TYPES, 7)
    assert all(task.id.startswith(f"{task.task_type}_") for task in tasks)
    assert "archive 4" in source
    assert read_archive(tmp_path) == Archive.draw(4)


def test_only_the_asked_types_are_generated(tmp_path):
    config = config_of(questions={"train": 6, "test": 6}, question_types=("two_hop",))
    tasks, _ = made(config, tmp_path)
    assert {task.task_type for task in tasks} == {"two_hop"}


def real_data(folder, *names):
    for name in names:
        row = f'{{"question": "who is in {name}?", "golden_answers": ["nobody"]}}\n'
        (folder / f"{name}.jsonl").write_text(row)
    (folder / "wiki.jsonl.passages").write_text('{"id": "0", "contents": "\\"A\\"\\nnobody"}\n')
    return {"data": str(folder), "retriever": {"passages": str(folder / "wiki.jsonl.passages")}}


def test_real_questions_keep_their_data_set(tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    environment = real_data(given, "nq", "nq_train", "hotpotqa")
    out = tmp_path / "tasks"
    out.mkdir()
    tasks, source = made(config_of(**environment, panels=("test", "hotpotqa")), out)
    assert source == "real questions"
    assert all(task.id.startswith(f"{task.data_set}/") for task in tasks)
    told = {(task.split, task.data_set, task.task_type) for task in tasks}
    assert ("train", "nq", "one_hop") in told
    assert ("test", "nq", "one_hop") in told
    assert ("hotpotqa", "hotpotqa", "two_hop") in told
    assert read_archive(out) is None


def test_real_questions_without_training_files_can_be_evaluated_alone(tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    environment = real_data(given, "nq")
    tasks, _ = made(config_of(**environment), tmp_path)
    assert {task.split for task in tasks} == {"test"}
    with pytest.raises(SdarError, match="no question for 'hotpotqa'"):
        made(config_of(**environment, panels=("hotpotqa",)), tmp_path)
