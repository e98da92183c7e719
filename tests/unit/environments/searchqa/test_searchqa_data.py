"""Questions and passages, in and out, and what is said about broken files."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdar.environments.searchqa.engine.data import (
    DATA_SOURCES,
    Question,
    by_id,
    read_folder,
    read_questions,
    write_questions,
)
from sdar.environments.searchqa.retrieval.passages import read_passages, write_passages
from sdar.errors import SdarError

QUESTIONS = [
    Question("nq/test_0", "who is it?", ("A", "B"), "nq", {"split": "test"}),
    Question("popqa/test_0", 'São? "yes"', ("東京",), "popqa", {"split": "test", "hops": [1]}),
]


def search_r1_row(**changes: Any) -> dict[str, Any]:
    """A row as Search-R1's own scripts write it."""
    row = {
        "id": "train_7",
        "question": "who got the first nobel prize in physics?",
        "golden_answers": ["Wilhelm Conrad Röntgen"],
        "data_source": "nq",
        "prompt": [{"role": "user", "content": "Answer it. Question: who got it?\n"}],
        "ability": "fact-reasoning",
        "reward_model": {"ground_truth": {"target": ["Röntgen", "Wilhelm"]}, "style": "rule"},
        "extra_info": {"index": 7, "split": "train"},
        "env_kwargs": {
            "ground_truth": {"target": ["Röntgen"]},
            "question": "who got the first one?",
            "data_source": "nq",
        },
    }
    return {key: value for key, value in (row | changes).items() if value is not None}


def parquet(path: Path, *rows: dict[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def lines(path: Path, *rows: Any) -> Path:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["questions.jsonl", "questions.parquet"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    write_questions(tmp_path / name, QUESTIONS)
    assert read_questions(tmp_path / name) == QUESTIONS


def test_parquet_has_search_r1s_schema(tmp_path: Path) -> None:
    write_questions(tmp_path / "test.parquet", QUESTIONS)
    row = pq.read_table(tmp_path / "test.parquet").to_pylist()[0]
    assert row["data_source"] == "nq"
    assert row["prompt"] == [{"role": "user", "content": "who is it?"}]
    assert row["reward_model"]["ground_truth"]["target"] == ["A", "B"]
    assert row["extra_info"]["split"] == "test"
    assert row["env_kwargs"] == {
        "ground_truth": {"target": ["A", "B"]},
        "question": "who is it?",
        "data_source": "nq",
    }


def test_search_r1s_own_rows(tmp_path: Path) -> None:
    (question,) = read_questions(parquet(tmp_path / "train.parquet", search_r1_row()))
    assert question.id == "nq/train_7"
    assert question.question == "who got the first one?"
    assert question.targets == ("Röntgen", "Wilhelm")
    assert (question.data_source, question.split) == ("nq", "train")


def test_rows_with_less(tmp_path: Path) -> None:
    row = search_r1_row(env_kwargs=None, question=None, id=None)
    (question,) = read_questions(parquet(tmp_path / "a.parquet", row))
    assert (question.id, question.question) == ("nq/train_7", "who got it?")
    row = search_r1_row(reward_model=None, env_kwargs={"ground_truth": "one", "question": "q"})
    (question,) = read_questions(parquet(tmp_path / "b.parquet", row))
    assert question.targets == ("one",)


def test_the_files_name_says_the_split_and_the_set(tmp_path: Path) -> None:
    row = {"question": "q", "golden_answers": ["a"]}
    names = ("nq", "hotpotqa_train", "2wikimultihopqa", "constraints")
    for name in names:
        lines(tmp_path / f"{name}.jsonl", row)
    lines(tmp_path / "passages.jsonl", {"id": 1, "contents": "x"})
    found = {q.id: q.split for q in read_folder(tmp_path)}
    assert found == {
        "2wikimultihopqa/test_0": "test",
        "constraints/test_0": "test",
        "hotpotqa/train_0": "train",
        "nq/test_0": "test",
    }


def test_search_r1s_test_file_repeats_ids_between_sets(tmp_path: Path) -> None:
    rows = [search_r1_row(id="test_0", data_source=source) for source in DATA_SOURCES]
    found = read_questions(parquet(tmp_path / "test.parquet", *rows))
    assert [question.id for question in found] == [f"{s}/test_0" for s in DATA_SOURCES]
    assert {question.split for question in found} == {"test"}
    assert len(by_id(found)) == 7


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (['{"question": "q", "golden_answers": ["a"]}', '{"question": '], "line 2: not a question"),
        (["[1]"], "line 1: expected a question as a JSON object, found a list"),
        ([{"golden_answers": ["a"]}], "line 1: no question"),
        ([{"question": " ", "golden_answers": ["a"]}], "line 1: no question"),
        ([{"question": "q"}], "line 1: no accepted answer"),
        ([{"question": "q", "golden_answers": ["", None]}], "line 1: no accepted answer"),
        (
            [{"id": "x", "question": "q", "golden_answers": ["a"]}] * 2,
            "line 2: the id 'broken/x' is already that of .*line 1",
        ),
        ([], "holds no question"),
        (["", "  "], "holds no question"),
    ],
)
def test_broken_questions_are_told(tmp_path: Path, rows: list[Any], message: str) -> None:
    file = lines(tmp_path / "broken.jsonl", *rows)
    with pytest.raises(SdarError, match=rf"broken\.jsonl.*{message}"):
        read_questions(file)


def test_missing_and_wrong_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(SdarError, match=r"none\.jsonl cannot be read"):
        read_questions(tmp_path / "none.jsonl")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(SdarError, match=r"cut\.parquet cannot be read as parquet"):
        read_questions(tmp_path / "cut.parquet")
    with pytest.raises(SdarError, match=r"environment\.data: no folder"):
        read_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SdarError, match=r"environment\.data: .*holds no \.parquet"):
        read_folder(tmp_path / "empty")
    file = parquet(tmp_path / "one.parquet", search_r1_row(), search_r1_row())
    with pytest.raises(SdarError, match=r"one\.parquet, row 1: the id 'nq/train_7'"):
        read_questions(file)


def test_the_same_questions_in_two_files_are_told(tmp_path: Path) -> None:
    for name in ("nq.jsonl", "nq_copy.jsonl"):
        lines(tmp_path / name, {"question": "q", "golden_answers": ["a"]})
    with pytest.raises(SdarError, match="has the id 'nq/test_0' in more than one file"):
        read_folder(tmp_path)


def test_real_questions(shared: Path) -> None:
    found = read_folder(shared / "data" / "searchqa")
    assert {question.data_source for question in found} == set(DATA_SOURCES)
    assert len(by_id(found)) == len(found) == 3060


def test_real_questions_through_parquet(shared: Path, tmp_path: Path) -> None:
    found = read_folder(shared / "data" / "searchqa")
    write_questions(tmp_path / "test.parquet", found)
    assert read_folder(tmp_path) == found


def test_passages_are_read_as_written(tmp_path: Path) -> None:
    pairs = [("b", '"Title"\ntext'), ("1", "São \u2028 Paulo")]
    write_passages(tmp_path / "p.jsonl", pairs)
    assert list(read_passages(tmp_path / "p.jsonl")) == pairs
    lines(tmp_path / "n.jsonl", {"id": 7, "contents": "x", "more": 1}, "")
    assert list(read_passages(tmp_path / "n.jsonl")) == [("7", "x")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (['{"id": "0", "contents": "x"}', '{"id": "1", "cont'], "line 2: not a passage as JSON"),
        ([{"contents": "x"}], "line 1: expected a text or a number as `id`"),
        ([{"id": True, "contents": "x"}], "line 1: expected a text or a number as `id`"),
        ([{"id": "0"}], "line 1: expected a text `contents`"),
        ([{"id": "0", "contents": ["x"]}], "line 1: expected a text `contents`"),
        ([{"id": "0", "contents": "x"}, {"id": 0, "contents": "y"}], "line 2: .*that of line 1"),
        (['{"id": "0", "contents": "\\ud83d"}'], "line 1: holds half of a surrogate pair"),
        (["3"], "line 1: expected a passage as a JSON object, found a int"),
        ([], "holds no passage"),
    ],
)
def test_broken_passages_are_told(tmp_path: Path, rows: list[Any], message: str) -> None:
    file = lines(tmp_path / "broken.jsonl", *rows)
    with pytest.raises(SdarError, match=rf"broken\.jsonl.*{message}"):
        list(read_passages(file))


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(b'{"id": "0", "contents": "x"}\n{"id": "\xff"}\n')
    with pytest.raises(SdarError, match=r"b\.jsonl, line 2: not a passage"):
        list(read_passages(tmp_path / "b.jsonl"))
