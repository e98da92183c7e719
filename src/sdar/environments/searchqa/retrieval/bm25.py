"""BM25 in process (Robertson and Zaragoza 2009), on bm25s's precomputed sparse scores.

Words are runs of letters and digits, lower-cased, compatibility forms and accents folded. All
words are indexed; a query loses its stop words unless nothing else is left ("The Who"). Passages
without any word of the query are never returned.

bm25s builds the index and lays it out; scores are summed and ranked here, because its own ranking
leaves equal scores in no particular order.
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdar.environments.searchqa.retrieval.base import Passage, clean_query
from sdar.environments.searchqa.retrieval.index import PassageTexts, open_index

K1, B = 0.9, 0.4
"""Lucene's settings for passages of about a hundred words (Pyserini's default)."""
BLOCK = 64
"""Scores in a block whose maximum is taken at once."""
_STOP_WORDS = """
a an and are as at be but by for from had has have he her his how i if in into is it its no not of
on or s she such that the their then there these they this to was were what when where which who
whom whose why will with
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """The words of a text as they are indexed."""
    if not text.isascii():
        parts = unicodedata.normalize("NFKD", text)
        text = "".join(c for c in parts if not unicodedata.combining(c))
    return _WORD.findall(text.lower())


def query_words(query: str) -> list[str]:
    """The words of a query that are searched for."""
    asked = words(clean_query(query))
    return [word for word in asked if word not in STOP_WORDS] or asked


class Bm25Retriever:
    """See `base.Retriever`. Open it with `open`; many processes can share one folder."""

    def __init__(self, index: Path) -> None:
        """`index`: a folder that `open` made."""
        loaded = bm25s().BM25.load(index, mmap=True, load_corpus=False, load_vocab=True)
        self._word_numbers: dict[str, int] = loaded.vocab_dict
        scores = loaded.scores
        # Plain views: numpy's memmap class is slow to slice; the memory stays mapped.
        self._scores: NDArray[np.float32] = np.asarray(scores["data"])
        self._passages: NDArray[np.int32] = np.asarray(scores["indices"])
        self._starts: list[int] = np.asarray(scores["indptr"]).tolist()
        self._texts = PassageTexts(index)

    @classmethod
    def open(cls, passages: Path, home: Path) -> "Bm25Retriever":
        """The retriever over a passage file; its index is below `home`, built where needed."""
        parameters = f"words-1 k1={K1} b={B} bm25s={version('bm25s')}"
        return cls(open_index(passages, home, "bm25", parameters, build))

    def __len__(self) -> int:
        return len(self._texts)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        return [self._search(query, top_k) for query in queries]

    def close(self) -> None:
        """Nothing: the mapping goes with the object."""

    def _search(self, query: str, top_k: int) -> list[Passage]:
        numbers = [self._word_numbers.get(word) for word in query_words(query)]
        # In the order of numbers: the same words in another order give the same score.
        known = sorted(number for number in numbers if number is not None)
        if not known:
            return []
        total = np.zeros(len(self._texts), dtype=np.float32)
        for number in known:
            start, end = self._starts[number], self._starts[number + 1]
            total[self._passages[start:end]] += self._scores[start:end]
        return [
            Passage(self._texts.ids[best], self._texts.contents[best], score)
            for best, score in best_scores(total, top_k)
        ]


def bm25s() -> Any:
    """The package. Where jax is installed, importing it makes jax compute something, which on a GPU
    would take most of the policy's memory: jax is kept on the CPU, unless told otherwise."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import bm25s

    return bm25s


def best_scores(scores: NDArray[np.float32], top_k: int) -> list[tuple[int, float]]:
    """(number, score) of the `top_k` highest scores above 0: score down, then number up.

    The k-th best of the blocks' maxima cannot exceed the k-th best score, so what reaches it holds
    the answer; it is a handful. (`np.partition` is ten times slower: most scores are equal, 0.)
    """
    full = len(scores) - len(scores) % BLOCK
    maxima = scores[:full].reshape(-1, BLOCK).max(axis=1)
    least = np.sort(maxima)[-top_k] if len(maxima) >= top_k else np.float32(0)
    candidates = np.flatnonzero(scores >= least) if least > 0 else np.flatnonzero(scores)
    order = np.argsort(-scores[candidates], kind="stable")[:top_k]
    chosen = candidates[order]
    return list(zip(chosen.tolist(), scores[chosen].tolist(), strict=True))


def build(folder: Path, contents: Iterable[str]) -> None:
    """Write bm25s's index of the contents into `folder`."""
    vocabulary: dict[str, int] = {}
    documents = [
        [vocabulary.setdefault(word, len(vocabulary)) for word in words(text)] for text in contents
    ]
    index = bm25s().BM25(k1=K1, b=B, method="lucene", backend="numpy")
    index.index((documents, vocabulary), show_progress=False)
    index.save(folder, show_progress=False)
