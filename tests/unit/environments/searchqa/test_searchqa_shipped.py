"""Question files as others ship them: verl's and Search-R1's, and their relatives."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdar.environments.searchqa.config import SearchqaConfig
from sdar.environments.searchqa.engine.data import (
    DATA_SOURCES,
    read_folder,
    read_questions,
    usual_name,
)
from sdar.environments.searchqa.retrieval.passages import read_passages, write_passages
from sdar.environments.searchqa.tasks import make_tasks, stored_questions
from sdar.errors import SdarError

ASK = "Answer the given question. For example, <answer> Beijing </answer>. Question: "


def verl_row(index: int, split: str, source: str = "searchR1_nq", **changes: Any) -> dict[str, Any]:
    """A row as verl's `preprocess_search_r1_dataset` writes it: no id, and numbers from 0."""
    question = f"who wrote {split} {index}?"
    truth = {"target": [f"Author {index}"]}
    row = {
        "data_source": source,
        "prompt": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": ASK + question},
        ],
        "ability": "fact-reasoning",
        "reward_model": {"ground_truth": truth, "style": "rule"},
        "extra_info": {
            "index": index,
            "need_tools_kwargs": True,
            "question": question,
            "split": split,
            "tools_kwargs": {"search": {"create_kwargs": {"ground_truth": truth}}},
        },
        "metadata": None,
    }
    return {**row, **changes}


def parquet(path: Path, *rows: dict[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    write_passages(tmp_path / "passages.jsonl", [("0", '"Peru"\nLima')])
    return folder


def tasks_of(data: Path, *panels: str) -> list[Any]:
    retriever = {"passages": data.parent / "passages.jsonl"}
    config = SearchqaConfig(data=data, retriever=retriever)
    assert config.check_data(panels) == []
    tasks, _ = make_tasks(config, panels, data.parent)
    assert {question.id for question in stored_questions(data.parent)} == {t.id for t in tasks}
    return tasks


def test_verls_two_files_are_read_together(data: Path) -> None:
    sources = ("searchR1_nq", "searchR1_hotpotqa")
    train = [verl_row(n, "train", sources[n % 2]) for n in range(4)]
    test = [verl_row(n, "test", f"searchR1_{name}") for n, name in enumerate(DATA_SOURCES)]
    parquet(data / "train.parquet", *train)
    parquet(data / "test.parquet", *test)
    tasks = tasks_of(data, "nq", "musique")
    assert [task.id for task in tasks] == [
        *(f"{name}/test_{n}" for n, name in enumerate(DATA_SOURCES)),
        *(f"{('nq', 'hotpotqa')[n % 2]}/train_{n}" for n in range(4)),
    ]
    by_set = {task.data_set: task.task_type for task in tasks}
    assert by_set == {
        name: "one_hop" if name in ("nq", "triviaqa", "popqa") else "two_hop"
        for name in DATA_SOURCES
    }
    assert [task.instruction for task in tasks if task.split == "nq"] == ["who wrote test 0?"]
    assert sum(task.split == "train" for task in tasks) == 4
    assert stored_questions(data.parent)[0].targets == ("Author 0",)


def test_the_tag_does_not_matter() -> None:
    for name in DATA_SOURCES:
        for written in (f"searchR1_{name}", f"search_r1/{name}", name.upper(), f" {name} "):
            assert usual_name(written) == name
    assert usual_name("hotpot_qa") == "hotpotqa"
    assert usual_name("2WikiMultihopQA") == "2wikimultihopqa"
    assert usual_name("natural_questions") == "nq"
    for strange in ("gsm8k", "searchR1_", "my_nq_questions", "nqa", ""):
        assert usual_name(strange) == strange


@pytest.mark.parametrize("source", ["searchR1_gsm8k", "openai/gsm8k", "nqx", "train"])
def test_a_data_set_nobody_knows_is_said_and_not_guessed(data: Path, source: str) -> None:
    parquet(data / "test.parquet", verl_row(0, "test"), verl_row(1, "test", source))
    with pytest.raises(SdarError, match=f"data_source '{source}' is none of nq, triviaqa") as told:
        tasks_of(data, "test")
    assert f"{source}/test_1" in str(told.value)
    assert len(str(told.value)) < 1000
    rows = [verl_row(0, "test"), verl_row(1, "test", source)]
    parquet(data / "test.parquet", *({**row, "task_type": "comparison"} for row in rows))
    assert {task.task_type for task in tasks_of(data, "test")} == {"comparison"}
    parquet(data / "test.parquet", *({**row, "task_type": "maths"} for row in rows))
    with pytest.raises(SdarError, match="task_type 'maths' is none of one_hop, two_hop"):
        tasks_of(data, "test")


def test_without_its_column_the_data_set_is_that_of_the_file(data: Path) -> None:
    row = verl_row(0, "test")
    del row["data_source"]
    parquet(data / "popqa_test.parquet", row)
    assert [task.data_set for task in tasks_of(data, "popqa")] == ["popqa"]
    parquet(data / "train.parquet", row)
    with pytest.raises(SdarError, match=r"data_source 'train' is none of .*name a file without"):
        tasks_of(data, "popqa")


@pytest.mark.parametrize(
    "truth",
    [
        {"target": "Lima"},
        {"target": ["Lima"]},
        {"target": ["", None, "Lima", "  "]},
        "Lima",
        ["Lima"],
        json.dumps({"target": ["Lima"]}),
        json.dumps(["Lima"]),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "parquet"])
def test_targets_in_all_forms(data: Path, truth: Any, form: str) -> None:
    row = verl_row(0, "test", reward_model={"style": "rule", "ground_truth": truth})
    file = data / f"test.{form}"
    if form == "parquet":
        parquet(file, row)
    else:
        line = json.dumps(row).encode()
        file.write_bytes(gzip.compress(line) if form.endswith("gz") else line)
    (question,) = read_folder(data)
    assert question.targets == ("Lima",)
    assert (question.id, question.question) == ("nq/test_0", "who wrote test 0?")


def test_an_answer_in_brackets_is_an_answer(data: Path) -> None:
    for answer in ("[1, 2]", "{x}", "[", "[sic]"):
        row = verl_row(0, "test", reward_model={"ground_truth": {"target": answer}})
        (data / "test.jsonl").write_text(json.dumps(row))
        assert read_folder(data)[0].targets == (answer,)


def test_numbers_are_answers_too(data: Path) -> None:
    truths = ([1999], [1999.0], 1999)
    rows = [
        verl_row(n, "test", reward_model={"ground_truth": {"target": t}})
        for n, t in enumerate(truths)
    ]
    (data / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert {question.targets for question in read_folder(data)} == {("1999",)}


def test_columns_as_json_text_and_object_columns(data: Path) -> None:
    row = verl_row(0, "test")
    packed = {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in row.items()}
    (question,) = read_questions(parquet(data / "test.parquet", packed))
    assert (question.id, question.targets) == ("nq/test_0", ("Author 0",))
    pandas = pytest.importorskip("pandas")
    numpy = pytest.importorskip("numpy")
    truth = {"target": numpy.array(["Lima", "Cuzco"], dtype=object)}
    frame = pandas.DataFrame([verl_row(0, "test", reward_model={"ground_truth": truth})])
    frame.to_parquet(data / "test.parquet")
    assert read_questions(data / "test.parquet")[0].targets == ("Lima", "Cuzco")


def test_the_question_is_found_in_the_prompt(data: Path) -> None:
    row = verl_row(3, "test", extra_info={"index": 3, "split": "test"})
    (question,) = read_questions(parquet(data / "test.parquet", row))
    assert question.question == "who wrote test 3?"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward_model": None}, "no accepted answer .*reward_model.ground_truth.target"),
        ({"reward_model": {"ground_truth": {"target": []}}}, "no accepted answer"),
        ({"reward_model": {"ground_truth": {"target": [" "]}}}, "no accepted answer"),
        ({"reward_model": {"ground_truth": {"target": None}}}, "no accepted answer"),
        ({"prompt": None, "extra_info": {"index": 0}}, "no question .*`prompt`"),
        ({"prompt": [], "extra_info": {"index": 0}}, "no question"),
        ({"extra_info": {"question": "half \ud83d"}}, "holds half of a surrogate pair"),
    ],
)
def test_what_is_missing_is_said_with_file_and_row(
    data: Path, changes: dict[str, Any], message: str
) -> None:
    (data / "test.jsonl").write_text(json.dumps(verl_row(0, "test", **changes)))
    with pytest.raises(SdarError, match=rf"test\.jsonl, line 1: {message}"):
        read_folder(data)


def test_splits_and_shards_count_for_themselves(data: Path) -> None:
    """dev and test of one data set, and files that are parts of one: each counts from 0."""
    parquet(data / "dev.parquet", verl_row(0, "dev"))
    parquet(data / "test.parquet", verl_row(0, "test"))
    for shard in ("00000", "00001"):
        row = verl_row(0, "train", extra_info={"question": f"shard {shard}?"})
        parquet(data / f"train-{shard}-of-00002.parquet", row)
    assert sorted(question.id for question in read_folder(data)) == [
        "nq/dev_0",
        "nq/test_0",
        "nq/train_0",
        "nq/train_00001_0",
    ]
    assert {q.split for q in read_folder(data)} == {"train", "test"}


def test_ids_that_are_numbers_are_numbers(data: Path) -> None:
    for split in ("train", "test"):
        row = {"id": 0, "data_source": "nq", "question": f"{split}?", "golden_answers": ["a"]}
        (data / f"{split}.jsonl").write_text(json.dumps(row))
    assert sorted(q.id for q in read_folder(data)) == ["nq/test_0", "nq/train_0"]


def test_a_copy_of_a_file_is_said(data: Path) -> None:
    for name in ("test.parquet", "test_copy.parquet"):
        parquet(data / name, verl_row(0, "test"))
    with pytest.raises(SdarError, match="has the id 'nq/test_0' in more than one file"):
        read_folder(data)


def test_a_split_in_the_metadata_is_no_split_of_ours(data: Path) -> None:
    row = verl_row(0, "test", metadata={"split": "validation", "date": "2020"})
    (question,) = read_questions(parquet(data / "test.parquet", row))
    assert (question.split, question.id) == ("test", "nq/validation_0")


def test_packed_files(data: Path) -> None:
    with gzip.open(data.parent / "p.jsonl.gz", "wt") as file:
        file.write(json.dumps({"id": "0", "contents": "x"}))
    assert list(read_passages(data.parent / "p.jsonl.gz")) == [("0", "x")]
    whole = (data.parent / "p.jsonl.gz").read_bytes()
    for broken in (whole[:-9], b"no gzip at all"):
        (data / "test.jsonl.gz").write_bytes(broken)
        with pytest.raises(SdarError, match=r"test\.jsonl\.gz cannot be unpacked"):
            read_folder(data)
    (data / "test.jsonl.gz").unlink()
    (data / "test.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(verl_row(0, "test")).encode())
    assert len(read_folder(data)) == 1
    (data / "test.jsonl").unlink()
    write_passages(data / "passages.jsonl", [("0", "x")])
    config = SearchqaConfig(data=data, retriever={"passages": data / "passages.jsonl"})
    assert "holds no .parquet or .jsonl" in config.check_data(("test",))[0]
