"""Search by meaning: sentence vectors, compared by inner product (the extra `dense`).

Passages are encoded once and kept as a flat faiss index on disk, memory-mapped after. faiss sums in
another order for small and for large batches; so it proposes a few more passages than are wanted,
and these are scored again in double precision and ranked here: score down, then id.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sdar.environments.searchqa.config import RetrieverConfig
from sdar.environments.searchqa.retrieval.base import Passage, clean_query
from sdar.environments.searchqa.retrieval.index import PassageTexts, open_index
from sdar.errors import SdarError

EXTRA_CANDIDATES = 16
DECIMALS = 5
"""Scores are rounded: a sentence encoder's own noise between batches is below this."""
_VECTORS = "vectors.faiss"


class Encoder(Protocol):
    """Texts to unit vectors. `name` changes whenever the vectors would."""

    name: str

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]: ...

    def encode_passages(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


class SentenceEncoder:
    """A sentence-transformers model, by name or folder. E5 models want their two prefixes."""

    def __init__(self, model: str, query_prefix: str = "", passage_prefix: str = "") -> None:
        library = _needed("sentence_transformers")
        try:
            self._model = library.SentenceTransformer(model)
        except (OSError, ValueError) as error:
            raise SdarError(
                f"environment.retriever.model: {model} cannot be loaded ({error}); give the name "
                "or the folder of a sentence-transformers model"
            ) from error
        self._prefixes = (query_prefix, passage_prefix)
        self.name = f"{model} {self._prefixes!r}"

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._encode([self._prefixes[0] + text for text in texts])

    def encode_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._encode([self._prefixes[1] + text for text in texts])

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        vectors = self._model.encode(
            texts, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )
        return np.asarray(vectors, dtype=np.float32)


def open_dense(passages: Path, home: Path, config: RetrieverConfig) -> "DenseRetriever":
    """The retriever over a passage file with the configuration's model."""
    _needed("faiss")  # before minutes of encoding
    encoder = SentenceEncoder(config.model, config.query_prefix, config.passage_prefix)
    return DenseRetriever.open(passages, home, encoder)


class DenseRetriever:
    """See `base.Retriever`."""

    def __init__(self, index: Path, encoder: Encoder) -> None:
        faiss = _needed("faiss")
        self._encoder = encoder
        self._texts = PassageTexts(index)
        self._vectors = faiss.read_index(
            str(index / _VECTORS), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY
        )

    @classmethod
    def open(cls, passages: Path, home: Path, encoder: Encoder) -> "DenseRetriever":
        """The retriever over a passage file; its index is below `home`, built where needed."""
        faiss = _needed("faiss")

        def build(folder: Path, contents: Sequence[str]) -> None:
            vectors_ND = np.ascontiguousarray(encoder.encode_passages(contents), dtype=np.float32)
            index = faiss.IndexFlatIP(vectors_ND.shape[1])
            index.add(vectors_ND)
            faiss.write_index(index, str(folder / _VECTORS))

        return cls(open_index(passages, home, "dense", encoder.name, build), encoder)

    def __len__(self) -> int:
        return len(self._texts)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        if not queries:
            return []
        queries_QD = self._encoder.encode_queries([clean_query(query) for query in queries])
        wanted = min(len(self), top_k + EXTRA_CANDIDATES)
        _, numbers_QC = self._vectors.search(np.ascontiguousarray(queries_QD), wanted)
        return [
            self._rank(query_D, numbers_C, top_k)
            for query_D, numbers_C in zip(queries_QD, numbers_QC, strict=True)
        ]

    def close(self) -> None:
        """Nothing: the mapping goes with the object."""

    def _rank(
        self, query_D: NDArray[np.float32], numbers_C: NDArray[np.int64], top_k: int
    ) -> list[Passage]:
        numbers = sorted(number for number in numbers_C.tolist() if number >= 0)
        vectors_CD = np.stack([self._vectors.reconstruct(number) for number in numbers])
        scores_C = (vectors_CD.astype(np.float64) * query_D).sum(axis=1).round(DECIMALS)
        order = np.argsort(-scores_C, kind="stable")[:top_k]
        return [
            Passage(
                self._texts.ids[numbers[i]], self._texts.contents[numbers[i]], float(scores_C[i])
            )
            for i in order.tolist()
        ]


def _needed(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise SdarError(
            f"environment.retriever.kind: dense needs {error.name or module}, which is not "
            "installed: pip install 'sdar[dense]', or set the kind to bm25 or http"
        ) from error
