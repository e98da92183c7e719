"""BM25 over a few hundred passages held in memory: ranks exactly as `bm25.Bm25Retriever` does.

For the many small archives of the warm start, each of which is searched a few times.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from sdar.environments.searchqa.retrieval.base import Passage
from sdar.environments.searchqa.retrieval.bm25 import K1, B, query_words, words


class MemoryRetriever:
    """See `base.Retriever`. `passages`: (id, contents) pairs."""

    def __init__(self, passages: Sequence[tuple[str, str]]) -> None:
        self._passages = sorted(passages)
        documents = [Counter(words(contents)) for _, contents in self._passages]
        lengths = [document.total() for document in documents]
        self._mean_length = sum(lengths) / len(lengths)
        self._numbers: dict[str, int] = {}
        self._postings: list[list[tuple[int, int, int]]] = []
        """By word number: (passage, times in it, its length)."""
        for number, (document, length) in enumerate(zip(documents, lengths, strict=True)):
            for word, times in document.items():
                if word not in self._numbers:
                    self._numbers[word] = len(self._postings)
                    self._postings.append([])
                self._postings[self._numbers[word]].append((number, times, length))

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        return [self._search(query, top_k) for query in queries]

    def close(self) -> None:
        """Nothing: all is memory."""

    def _search(self, query: str, top_k: int) -> list[Passage]:
        numbers = (self._numbers.get(word) for word in query_words(query))
        scores: dict[int, np.float32] = {}
        # In the order of first appearance, as the other sums: equal in the last bit.
        for number in sorted(number for number in numbers if number is not None):
            postings = self._postings[number]
            left = len(self._passages) - len(postings) + 0.5
            # Rounded where bm25s rounds.
            rarity = float(np.float32(math.log(1 + left / (len(postings) + 0.5))))
            for passage, times, length in postings:
                norm = K1 * (1 - B + B * length / self._mean_length)
                score = np.float32(rarity * (times / (norm + times)))
                scores[passage] = scores.get(passage, np.float32(0)) + score
        best = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:top_k]
        return [Passage(*self._passages[number], float(score)) for number, score in best]
