"""BM25 in process: what it finds, how ties fall, and how its index lives on disk."""

import json
import math
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdar.environments.searchqa.config import RetrieverConfig
from sdar.environments.searchqa.retrieval import open_retriever
from sdar.environments.searchqa.retrieval.base import Passage
from sdar.environments.searchqa.retrieval.bm25 import (
    K1,
    B,
    Bm25Retriever,
    best_scores,
    query_words,
    words,
)
from sdar.environments.searchqa.retrieval.index import COMPLETE
from sdar.environments.searchqa.retrieval.passages import write_passages
from sdar.errors import SdarError

WORDS = [f"w{number}" for number in range(60)]


def passages(count: int = 400, seed: int = 0) -> list[tuple[str, str]]:
    draw = random.Random(f"passages {seed}")
    return [
        (str(n), f'"{draw.choice(WORDS)}"\n{" ".join(draw.choices(WORDS, k=draw.randint(3, 12)))}')
        for n in range(count)
    ]


def opened(folder: Path, pairs: list[tuple[str, str]]) -> Bm25Retriever:
    write_passages(folder / "passages.jsonl", pairs)
    return Bm25Retriever.open(folder / "passages.jsonl", folder)


def naive(pairs: list[tuple[str, str]], query: str, top_k: int) -> list[tuple[str, float]]:
    """BM25 from the formula, one passage at a time."""
    counts = {identifier: Counter(words(contents)) for identifier, contents in pairs}
    mean = sum(count.total() for count in counts.values()) / len(counts)
    holders = Counter(word for count in counts.values() for word in count)
    scores = {}
    for identifier, count in counts.items():
        score = 0.0
        for word in query_words(query):
            rarity = math.log(1 + (len(counts) - holders[word] + 0.5) / (holders[word] + 0.5))
            norm = K1 * (1 - B + B * count.total() / mean)
            score += rarity * count[word] / (count[word] + norm)
        if score > 0:
            scores[identifier] = score
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:top_k]


def test_ranks_are_those_of_the_formula(tmp_path: Path) -> None:
    pairs = passages()
    retriever = opened(tmp_path, pairs)
    draw = random.Random("queries")
    queries = [" ".join(draw.choices(WORDS, k=draw.randint(1, 6))) for _ in range(100)]
    for query, found in zip(queries, retriever.search(queries, 5), strict=True):
        scores = dict(naive(pairs, query, len(pairs)))
        assert [p.score for p in found] == pytest.approx(list(scores.values())[:5], rel=1e-5)
        for passage in found:
            assert passage.score == pytest.approx(scores[passage.id], rel=1e-5)
            assert passage.contents == dict(pairs)[passage.id]


def test_ties_fall_by_id(tmp_path: Path) -> None:
    pairs = [(name, '"same"\nwords here') for name in ("c", "10", "a", "9", "b")]
    (found,) = opened(tmp_path, pairs).search(["same words"], 4)
    assert [passage.id for passage in found] == ["10", "9", "a", "b"]
    assert len({passage.score for passage in found}) == 1


def test_an_answer_depends_on_the_query_alone(tmp_path: Path) -> None:
    retriever = opened(tmp_path, passages())
    queries = ["w1 w2", "w2 w1", "w3", "w1 w2"]
    found = retriever.search(queries, 5)
    assert found[0] == found[1] == found[3] == retriever.search(["w1 w2"], 5)[0]
    assert found[0][:2] == retriever.search(["w1 w2"], 2)[0]
    shuffled = passages()
    random.Random(1).shuffle(shuffled)
    (tmp_path / "other").mkdir()
    again = opened(tmp_path / "other", shuffled).search(queries, 5)
    assert [[p.id for p in each] for each in again] == [[p.id for p in each] for each in found]


@given(
    st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0, 1.5, 2.0]), min_size=1, max_size=300),
    st.integers(1, 8),
)
def test_the_best_scores(scores: list[float], top_k: int) -> None:
    expected = sorted(((-s, n) for n, s in enumerate(scores) if s > 0))[:top_k]
    found = best_scores(np.asarray(scores, dtype=np.float32), top_k)
    assert found == [(n, -s) for s, n in expected]


def test_stop_words_count_where_nothing_else_is_left(tmp_path: Path) -> None:
    pairs = [("0", '"The Who"\na band'), ("1", '"France"\nwhere the capital is')]
    retriever = opened(tmp_path, pairs)
    assert query_words("What is the capital?") == ["capital"]
    assert query_words("The Who") == ["the", "who"]
    assert retriever.search(["the who"], 1)[0][0].id == "0"


def test_accents_case_and_width_are_folded(tmp_path: Path) -> None:
    retriever = opened(tmp_path, [("0", '"São Paulo"\nx'), ("1", '"Paris"\ny')])
    for query in ("sao paulo", "SÃO", "Sa\u0303o", "ｐａｕｌｏ"):
        assert [p.id for p in retriever.search([query], 3)[0]] == ["0"]
    # A letter of another alphabet is another letter.
    assert retriever.search(["P\u0430ris"], 3) == [[]]


@pytest.mark.parametrize("query", ["", "?!", "\x00\x01", "zzz unknown", "\ud83d", "🎉"])
def test_queries_that_find_nothing(tmp_path: Path, query: str) -> None:
    assert opened(tmp_path, passages(20)).search([query, "w1"], 3)[0] == []


def test_a_megabyte_of_query_is_searched_by_its_beginning(tmp_path: Path) -> None:
    retriever = opened(tmp_path, passages())
    long = "w1 w2 " + " " * 100 + "unknown " * 150_000
    assert retriever.search([long], 3) == retriever.search(["w1 w2"], 3)


def test_fewer_passages_than_wanted(tmp_path: Path) -> None:
    (found,) = opened(tmp_path, [("0", "one word"), ("1", "another")]).search(["word"], 10)
    assert found == [Passage("0", "one word", pytest.approx(found[0].score))]
    assert found[0].score > 0


def test_an_index_is_built_once_and_found_by_content(tmp_path: Path) -> None:
    opened(tmp_path, passages())
    (folder,) = (tmp_path / "index").iterdir()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    Bm25Retriever.open(tmp_path / "passages.jsonl", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    # The same content elsewhere is the same index.
    write_passages(tmp_path / "copy.jsonl", passages())
    Bm25Retriever.open(tmp_path / "copy.jsonl", tmp_path)
    assert list((tmp_path / "index").iterdir()) == [folder]


def test_a_changed_file_is_indexed_again(tmp_path: Path) -> None:
    assert opened(tmp_path, [("0", "old")]).search(["new"], 1) == [[]]
    assert opened(tmp_path, [("0", "new")]).search(["new"], 1)[0][0].id == "0"
    assert len(list((tmp_path / "index").iterdir())) == 2


@pytest.mark.parametrize("damage", ["truncate", "remove", "unfinished"])
def test_a_damaged_index_is_built_again(tmp_path: Path, damage: str) -> None:
    expected = opened(tmp_path, passages()).search(["w1"], 3)
    (folder,) = (tmp_path / "index").iterdir()
    file = folder / (COMPLETE if damage == "unfinished" else "contents.utf8")
    if damage == "truncate":
        file.write_bytes(file.read_bytes()[:100])
    else:
        file.unlink()
    assert opened(tmp_path, passages()).search(["w1"], 3) == expected
    assert list((tmp_path / "index").iterdir()) == [folder]


def test_what_a_killed_process_left_is_removed_in_time(tmp_path: Path) -> None:
    opened(tmp_path, passages())
    (folder,) = (tmp_path / "index").iterdir()
    shutil.rmtree(folder)
    old, young = (folder.with_name(f".{folder.name}.{name}") for name in ("old", "young"))
    for left in (old, young):
        left.mkdir()
    os.utime(old, (1, 1))
    opened(tmp_path, passages())
    assert set((tmp_path / "index").iterdir()) == {folder, young}


def test_broken_passages_leave_no_index(tmp_path: Path) -> None:
    file = tmp_path / "passages.jsonl"
    file.write_text('{"id": "0", "contents": "x"}\n{"id": "0", "contents": "y"}\n')
    with pytest.raises(SdarError, match=r"passages\.jsonl, line 2"):
        Bm25Retriever.open(file, tmp_path)
    assert list((tmp_path / "index").iterdir()) == []


def _open_and_search(folder: Path, barrier: "multiprocessing.synchronize.Barrier") -> object:
    barrier.wait()
    found = Bm25Retriever.open(folder / "passages.jsonl", folder).search(["w1 w5"], 3)
    (folder / f"found-{multiprocessing.current_process().name}.json").write_text(
        json.dumps([passage.id for passage in found[0]])
    )
    return None


def test_processes_that_build_at_once_agree(tmp_path: Path) -> None:
    write_passages(tmp_path / "passages.jsonl", passages(3000))
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    workers = [
        context.Process(target=_open_and_search, args=(tmp_path, barrier), name=str(n))
        for n in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    answers = {path.read_text() for path in tmp_path.glob("found-*.json")}
    assert len(answers) == 1
    assert len(list((tmp_path / "index").iterdir())) == 1, "nothing half-built is left"


def test_opened_by_configuration(tmp_path: Path) -> None:
    write_passages(tmp_path / "passages.jsonl", [("0", "in the folder")])
    assert open_retriever(RetrieverConfig(), tmp_path).search(["folder"], 1)[0][0].id == "0"
    write_passages(tmp_path / "own.jsonl", [("9", "given by name")])
    named = RetrieverConfig(passages=tmp_path / "own.jsonl")
    assert open_retriever(named, tmp_path).search(["name"], 1)[0][0].id == "9"
    missing = RetrieverConfig(passages=tmp_path / "none.jsonl")
    with pytest.raises(SdarError, match=r"retriever\.passages: .*none\.jsonl cannot be read"):
        open_retriever(missing, tmp_path)


def test_a_server_needs_urls() -> None:
    with pytest.raises(ValueError, match="kind http has no urls"):
        RetrieverConfig(kind="http")


@pytest.mark.slow
def test_real_passages_are_found(shared: Path, tmp_path: Path) -> None:
    """Gold-string recall at 3, the question as the query: what the data's own notes say."""
    from sdar.environments.searchqa.engine.data import read_folder

    data = shared / "data" / "searchqa"
    retriever = Bm25Retriever.open(data / "passages.jsonl", tmp_path)
    assert len(retriever) == 14_377
    questions = [q for q in read_folder(data) if q.data_source in ("nq", "triviaqa", "popqa")]
    found = retriever.search([question.question for question in questions], 3)
    held: dict[str, list[bool]] = {}
    for question, each in zip(questions, found, strict=True):
        text = "\n".join(passage.contents.lower() for passage in each)
        hit = any(target.lower() in text for target in question.targets)
        held.setdefault(question.data_source, []).append(hit)
    recall = {source: sum(hits) / len(hits) for source, hits in held.items()}
    assert recall == pytest.approx({"nq": 0.57, "triviaqa": 0.64, "popqa": 0.43}, abs=0.03)


JAX = """
import os, pathlib
used = pathlib.Path(__file__).with_name("used")
def top_k(values, k):
    used.write_text(os.environ.get("JAX_PLATFORMS", "what there is"))
"""


@pytest.mark.parametrize("said", [None, "cuda"])
def test_jax_where_it_is_installed_leaves_the_gpu_alone(tmp_path: Path, said: str | None) -> None:
    """bm25s computes with it when it is imported, and on a GPU jax takes most of the memory."""
    jax = tmp_path / "jax"
    jax.mkdir()
    (jax / "__init__.py").touch()
    (jax / "lax.py").write_text(JAX)
    code = "from sdar.environments.searchqa.retrieval.bm25 import bm25s; bm25s()"
    environment = os.environ | ({} if said is None else {"JAX_PLATFORMS": said})
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    subprocess.run(
        [sys.executable, "-c", code], env=environment | {"PYTHONPATH": paths}, check=True
    )
    assert (jax / "used").read_text() == (said or "cpu")
