"""BM25 as Lucene computes it, over sparse postings.

Lucene's single-precision formula, its one-byte document lengths and its order (score down, then
document up) are kept, so a ranking is the same list, ties included. Robertson and Zaragoza 2009.
"""

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

K1, B = 0.9, 0.4
"""Anserini's settings, which WebShop's index uses."""
POSTING_ARRAYS = ("starts", "documents", "saturation", "rarity")
_EXACT_LENGTHS = 24
"""Lengths below this have a code of their own."""


def length_code(length: int) -> int:
    """Lucene's byte for a document's length: exact below 40, then four significant bits."""
    if length < _EXACT_LENGTHS:
        return length
    rest = length - _EXACT_LENGTHS
    shift = max(rest.bit_length() - 4, -1)
    code = rest if rest < 8 else (rest >> shift) & 7 | (shift + 1) << 3
    return _EXACT_LENGTHS + code


def decoded_length(code: int) -> int:
    """The length that a byte stands for."""
    if code < _EXACT_LENGTHS:
        return code
    rest = code - _EXACT_LENGTHS
    shift = (rest >> 3) - 1
    return _EXACT_LENGTHS + (rest if shift < 0 else (rest & 7 | 8) << shift)


@dataclass(frozen=True)
class Postings:
    """The index. Term `t` stands in `documents[starts[t]:starts[t + 1]]`, ascending.

    `saturation` holds, for the same places, 1 + frequency / (k1 (1 - b + b length / average)), the
    part of the formula that no query changes. `rarity[t]` is the term's idf.
    """

    terms: dict[str, int]
    starts: NDArray[np.int64]
    documents: NDArray[np.int32]
    saturation: NDArray[np.float32]
    rarity: NDArray[np.float32]
    size: int

    def rank(self, terms: Sequence[str], most: int) -> NDArray[np.int64]:
        """At most `most` documents that have one of the terms, best first.

        A term that is repeated counts as often.
        """
        counts = Counter(number for term in terms if (number := self.terms.get(term)) is not None)
        if not counts:
            return np.empty(0, np.int64)
        numbers = np.fromiter(counts, np.int64, len(counts))
        repeats = np.fromiter(counts.values(), np.float32, len(counts))
        starts = self.starts[numbers].tolist()
        ends = self.starts[numbers + 1].tolist()
        spans = [slice(start, end) for start, end in zip(starts, ends, strict=True)]
        lengths = [end - start for start, end in zip(starts, ends, strict=True)]
        weight = np.repeat(self.rarity[numbers] * repeats, lengths)
        parts = weight - weight / np.concatenate([self.saturation[span] for span in spans])
        documents = np.concatenate([self.documents[span] for span in spans])
        # Summed in double precision, compared in single, as Lucene does.
        scores = np.bincount(documents, parts, self.size).astype(np.float32)
        matches = np.flatnonzero(scores)
        if len(matches) > most:
            values = scores[matches]
            least = np.partition(values, len(matches) - most)[len(matches) - most]
            matches = matches[values >= least]
        return matches[np.argsort(-scores[matches], kind="stable")][:most]

    def save(self, folder: Path) -> None:
        """Write it for `load`."""
        for name in POSTING_ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))
        (folder / "terms.txt").write_text("\n".join(self.terms), encoding="utf-8")
        (folder / "size.txt").write_text(str(self.size), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Postings":
        """The index that `save` wrote; its arrays stay on disk and are mapped."""
        lines = (folder / "terms.txt").read_text(encoding="utf-8").split("\n")
        starts, documents, saturation, rarity = (
            np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in POSTING_ARRAYS
        )
        size = int((folder / "size.txt").read_text(encoding="utf-8"))
        terms = {term: number for number, term in enumerate(lines) if term}
        return cls(terms, starts, documents, saturation, rarity, size)


def build_postings(
    documents: Iterable[Sequence[str]], order: Callable[[], NDArray[np.int64]]
) -> Postings:
    """Index documents, given as their terms, one by one; document `d` gets number `order()[d]`.

    `order` is asked after the last document, so it may depend on all of them.
    """
    numbers: dict[str, int] = {}
    terms, places, frequencies = array("i"), array("i"), array("f")
    lengths = array("q")
    for place, document in enumerate(documents):
        counts = Counter(document)
        lengths.append(len(document))
        terms.extend(numbers.setdefault(term, len(numbers)) for term in counts)
        places.extend([place] * len(counts))
        frequencies.extend(counts.values())

    size = len(lengths)
    term_P = np.frombuffer(terms, np.int32)
    place_P = np.frombuffer(places, np.int32)
    document_P = order()[place_P].astype(np.int32)
    by_term = np.lexsort((document_P, term_P))
    held = np.bincount(term_P, minlength=len(numbers))
    inverse = _inverse_norms(sum(lengths), size)
    norm_D = inverse[[length_code(length) for length in lengths]]
    saturation_P = np.float32(1) + np.frombuffer(frequencies, np.float32) * norm_D[place_P]
    rarity = [math.log(1 + (size - count + 0.5) / (count + 0.5)) for count in held.tolist()]
    return Postings(
        terms=numbers,
        starts=np.concatenate([[0], np.cumsum(held)]).astype(np.int64),
        documents=document_P[by_term],
        saturation=saturation_P[by_term],
        rarity=np.array(rarity, np.float32),
        size=size,
    )


def _inverse_norms(total: int, size: int) -> NDArray[np.float32]:
    """For each length code, 1 / (k1 (1 - b + b length / average)), rounded where Lucene rounds."""
    k1, b, one = np.float32(K1), np.float32(B), np.float32(1)
    average = np.float32(max(total, 1) / max(size, 1))
    lengths = np.array([decoded_length(code) for code in range(256)], np.float32)
    return one / (k1 * ((one - b) + b * lengths / average))
