"""How fast BM25 in process answers, builds and loads; beside it, the obvious other ways.

    python benchmarks/retrieval_speed.py [--passages FILE] [--queries N] [--output FILE]

One process, one thread. Without --passages 34,000 passages are made here, from a seed: about 60
words each, drawn from a vocabulary of 60,000 by Zipf's law, which is what decides how long posting
lists are. A query is 3 to 8 words of some passage and a few stop words. All ways see the same
queries; the rank-every-passage way is the textbook loop over the documents (as in rank_bm25), and
bm25s is that library's own scoring and ranking on the same index. Wall seconds are what a user
waits; CPU seconds do not depend on what else the machine does.

Left out: the environment around it, and HTTP (a server adds a round trip a turn, not a query).
"""

import argparse
import json
import platform
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from sdar.environments.searchqa.retrieval.bm25 import (
    K1,
    STOP_WORDS,
    B,
    Bm25Retriever,
    query_words,
    words,
)
from sdar.environments.searchqa.retrieval.passages import read_passages, write_passages

PASSAGES = 34_000
VOCABULARY = 60_000
TOP_K = 3


@dataclass(frozen=True)
class Speed:
    """One way to search; `ratio` is its queries per CPU second over the textbook loop's."""

    way: str
    queries: int
    queries_per_second: float
    queries_per_cpu_second: float
    ratio: float = 1.0


def made_passages(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Passages of 20 to 100 words."""
    rng = np.random.default_rng(seed)
    letters = random.Random(seed)
    vocabulary = [
        "".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=letters.randint(3, 10)))
        for _ in range(VOCABULARY)
    ]
    vocabulary[:40] = sorted(STOP_WORDS)[:40]
    weights = 1 / np.arange(1, VOCABULARY + 1) ** 1.05
    lengths = rng.integers(20, 101, size=count)
    drawn = rng.choice(VOCABULARY, size=int(lengths.sum()), p=weights / weights.sum())
    passages, start = [], 0
    for number, length in enumerate(lengths.tolist()):
        text = [vocabulary[i] for i in drawn[start : start + length]]
        start += length
        passages.append((str(number), f'"{text[0].title()} {text[1].title()}"\n{" ".join(text)}'))
    return passages


def made_queries(passages: Sequence[tuple[str, str]], count: int, seed: int = 0) -> list[str]:
    draw = random.Random(f"queries {seed}")
    queries = []
    for _ in range(count):
        spoken = words(draw.choice(passages)[1])
        content = [word for word in spoken if word not in STOP_WORDS] or spoken
        asked = draw.sample(content, k=min(len(content), draw.randint(3, 8)))
        queries.append(" ".join(["what", "is", "the", *asked]))
    return queries


def timed(way: str, queries: Sequence[str], search: Callable[[Sequence[str]], object]) -> Speed:
    search(queries[: max(1, len(queries) // 10)])  # pages in, caches warm
    wall, cpu = time.perf_counter(), time.process_time()
    search(queries)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    count = len(queries)
    return Speed(way, count, round(count / wall, 1), round(count / max(cpu, 1e-9), 1))


def textbook(passages: Sequence[tuple[str, str]]) -> Callable[[Sequence[str]], list[list[str]]]:
    """Each word of a query against every passage's counts, as rank_bm25 does; same formula."""
    counts = [Counter(words(contents)) for _, contents in passages]
    lengths = np.asarray([count.total() for count in counts])
    holders = Counter(word for count in counts for word in count)
    norms = K1 * (1 - B + B * lengths / lengths.mean())

    def search(queries: Sequence[str]) -> list[list[str]]:
        ranked = []
        for query in queries:
            total = np.zeros(len(counts))
            for word in query_words(query):
                times = np.asarray([count.get(word, 0) for count in counts])
                rarity = np.log(1 + (len(counts) - holders[word] + 0.5) / (holders[word] + 0.5))
                total += rarity * times / (times + norms)
            ranked.append([passages[i][0] for i in np.argsort(-total, kind="stable")[:TOP_K]])
        return ranked

    return search


def library(passages: Sequence[tuple[str, str]]) -> Callable[[Sequence[str]], object]:
    """bm25s with its own ranking."""
    import bm25s

    vocabulary: dict[str, int] = {}
    documents = [
        [vocabulary.setdefault(word, len(vocabulary)) for word in words(contents)]
        for _, contents in passages
    ]
    index = bm25s.BM25(k1=K1, b=B, method="lucene", backend="numpy")
    index.index((documents, vocabulary), show_progress=False)

    def search(queries: Sequence[str]) -> object:
        asked = [[w for w in query_words(query) if w in vocabulary] for query in queries]
        return index.retrieve(asked, k=TOP_K, show_progress=False, n_threads=0)

    return search


def measure(file: Path, home: Path, count: int, slow: int) -> dict[str, object]:
    passages = list(read_passages(file))
    queries = made_queries(passages, count)
    start = time.perf_counter()
    Bm25Retriever.open(file, home)
    build = time.perf_counter() - start
    start = time.perf_counter()
    retriever = Bm25Retriever.open(file, home)
    load = time.perf_counter() - start

    loop = textbook(passages)
    some = queries[:slow]
    ranked = [[passage.id for passage in each] for each in retriever.search(some, TOP_K)]
    best = sum(a[0] == b[0] for a, b in zip(ranked, loop(some), strict=True)) / len(some)
    slowest = timed("textbook loop over the passages", some, loop)
    ways = [
        timed("sdar, a batch", queries, lambda asked: retriever.search(asked, TOP_K)),
        timed(
            "sdar, one query a call",
            queries,
            lambda asked: [retriever.search([query], TOP_K) for query in asked],
        ),
        timed("bm25s, own ranking", queries, library(passages)),
        slowest,
    ]
    base = slowest.queries_per_cpu_second
    rated = [
        Speed(**(asdict(w) | {"ratio": round(w.queries_per_cpu_second / base, 1)})) for w in ways
    ]
    bytes_on_disk = sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
    return {
        "machine": {"processor": platform.machine(), "python": platform.python_version()},
        "passages": len(passages),
        "build_seconds": round(build, 2),
        "load_seconds": round(load, 3),
        "index_megabytes": round(bytes_on_disk / 1e6, 1),
        "same_first_passage_as_textbook": round(best, 4),
        "speeds": [asdict(speed) for speed in rated],
    }


def table(result: dict[str, object]) -> str:
    speeds: list[dict[str, object]] = result["speeds"]  # type: ignore[assignment]
    lines = [
        f"{result['passages']} passages: index built in {result['build_seconds']} s, loaded in "
        f"{result['load_seconds']} s, {result['index_megabytes']} MB",
        "",
        "| way | queries | queries/s | queries/CPU s | times the textbook loop |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {s['way']} | {s['queries']} | {s['queries_per_second']} | "
        f"{s['queries_per_cpu_second']} | {s['ratio']} |"
        for s in speeds
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=Path, help="JSON lines of id and contents")
    parser.add_argument("--queries", type=int, default=4000)
    parser.add_argument("--slow-queries", type=int, default=40, help="for the textbook loop")
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = arguments.passages
        if file is None:
            file = Path(folder) / "passages.jsonl"
            write_passages(file, made_passages(PASSAGES))
        result = measure(file, Path(folder) / "home", arguments.queries, arguments.slow_queries)
    print(table(result))
    print(json.dumps(result, indent=1))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
