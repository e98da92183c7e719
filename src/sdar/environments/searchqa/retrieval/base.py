"""What every retriever looks like to the environment."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

MAX_QUERY_CHARACTERS = 1024
"""A longer query is cut here, by the environment and by the server alike: an E5 encoder reads 512
tokens, and a megabyte of query must not slow everybody's turn."""


@dataclass(frozen=True)
class Passage:
    """One search result. `contents` is `"Title"` (in quotes), a newline, and the text."""

    id: str
    contents: str
    score: float


class Retriever(Protocol):
    """Answers many queries in one call.

    The answer to a query is a function of the query and the passages alone: not of the other
    queries, of the number of threads, or of earlier calls.
    """

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """For each query up to `top_k` passages, best first; equal scores in the order of ids."""
        ...

    def close(self) -> None: ...


class LocalRetriever(Retriever, Protocol):
    """A retriever with passages of its own; `len` is how many."""

    def __len__(self) -> int: ...


def clean_query(query: str) -> str:
    """The query as it is searched: control characters become spaces, runs of white space one,
    and the first `MAX_QUERY_CHARACTERS` are kept."""
    # Twice the limit leaves room for white space to shrink, and keeps the work bounded.
    kept = query[: 2 * MAX_QUERY_CHARACTERS]
    spaced = "".join(
        " " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in kept
    )
    return " ".join(spaced.split())[:MAX_QUERY_CHARACTERS].rstrip()
