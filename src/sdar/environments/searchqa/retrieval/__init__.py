"""Retrievers: BM25 in process (the default), dense vectors in process, or a server by URL."""

from pathlib import Path

from sdar.environments.searchqa.config import RetrieverConfig
from sdar.environments.searchqa.retrieval.base import LocalRetriever, Passage, Retriever

PASSAGES = "passages.jsonl"
"""The passages that come with generated questions, in the tasks' folder."""

__all__ = ["PASSAGES", "Passage", "Retriever", "open_local", "open_retriever", "passages_file"]


def passages_file(config: RetrieverConfig, folder: Path) -> Path:
    """The configured passages, or those in the tasks' folder."""
    return folder / PASSAGES if config.passages is None else config.passages


def open_retriever(config: RetrieverConfig, folder: Path) -> Retriever:
    """The retriever of a configuration (`environment.retriever`); `folder` is the tasks' folder.

    An index in process is built on first use below `folder` and is memory-mapped after; the tasks
    stage opens the retriever once, so that jobs find the index there. Raises `SdarError` for
    missing or broken passages, a missing extra, or (on search) dead servers.
    """
    if config.kind == "http":
        from sdar.environments.searchqa.retrieval.http import HttpRetriever

        return HttpRetriever(config.urls, timeout=config.timeout, retries=config.retries)
    return open_local(config, passages_file(config, folder), folder)


def open_local(config: RetrieverConfig, passages: Path, home: Path) -> LocalRetriever:
    """The retriever in process over `passages`; its index is below `home`, built where needed."""
    if config.kind == "dense":
        from sdar.environments.searchqa.retrieval.dense import open_dense

        return open_dense(passages, home, config)
    from sdar.environments.searchqa.retrieval.bm25 import Bm25Retriever

    return Bm25Retriever.open(passages, home)
