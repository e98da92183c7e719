"""A client of search servers in Search-R1's protocol (its own, or `sdar serve-retriever`).

POST /retrieve {"queries": [...], "topk": k, "return_scores": true} ->
{"result": [[{"document": {"id", "contents"}, "score"}, ...], ...]}, one list per query. Servers of
later projects want "query" instead, as a list or one at a time: what a server accepts is found out
once and remembered.

With several URLs the queries are spread over them, and a server that fails is passed over for the
next. When all have failed, they are tried again after a growing pause.
"""

import http.client
import json
import math
import random
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from sdar.environments.searchqa.retrieval.base import Passage, clean_query
from sdar.errors import SdarError
from sdar.web.client import bearer, is_server_url, opener, read_answer, redirection

QUERIES_A_REQUEST = 256
"""A turn of many episodes becomes several requests, each well within a server's time."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
"""Seconds between rounds of attempts: doubled each time, up to this, and jittered downwards."""
MOST_BYTES = 256 << 20
"""A longer answer is not from a search server."""
MOST_TOLD = 3
"""Servers whose failures an error tells."""
TOKEN_VARIABLE = "SDAR_RETRIEVER_TOKEN"
RETRIED_STATUSES = (408, 425, 429)
"""Besides 5xx."""
FORMS = ("queries", "query as a list", "query")
"""Request forms, in the order in which they are tried."""


class _Failure(Exception):
    """One attempt at one server failed. `again`: another attempt may do better."""

    def __init__(self, reason: str, again: bool = True) -> None:
        super().__init__(reason)
        self.again = again


class _Refused(_Failure):
    """Perhaps another form of request would do."""


class HttpRetriever:
    """See `base.Retriever`.

    `timeout`: seconds for one request. `retries`: further rounds over all URLs after the first.
    `sleep` and `seed` (of the jitter) are for tests; neither changes what is found. A search
    raises `SdarError` naming the URLs and what each answered once every attempt has failed.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        timeout: float = 60.0,
        retries: int = 3,
        seed: int = 0,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        if not urls:
            raise SdarError(
                "environment.retriever.urls is empty: give the search servers' URLs, such as "
                "[http://127.0.0.1:8000] for one started with `sdar serve-retriever`"
            )
        self.urls = tuple(_endpoint(url) for url in urls)
        self._timeout = timeout
        self._retries = retries
        self._sleep = sleep
        self._jitter = random.Random(f"retriever {seed}")
        self._forms: dict[str, str] = {}
        self._next = 0
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(len(self.urls), thread_name_prefix="retriever")

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        cleaned = [clean_query(query) for query in queries]
        share = min(QUERIES_A_REQUEST, -(-len(cleaned) // len(self.urls)))
        parts = [cleaned[i : i + share] for i in range(0, len(cleaned), share or 1)]
        first, self._next = self._next, (self._next + len(parts)) % len(self.urls)
        ended = threading.Event()
        if len(parts) == 1:  # in this thread, where Ctrl-C reaches it at once
            return self._search_part(parts[0], top_k, first, ended)
        tasks = [
            self._threads.submit(self._search_part, part, top_k, first + number, ended)
            for number, part in enumerate(parts)
        ]
        try:
            return [passages for task in tasks for passages in task.result()]
        finally:
            ended.set()  # one part failed, or Ctrl-C: the others need not go on
            for task in tasks:
                task.cancel()

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _search_part(
        self, queries: Sequence[str], top_k: int, first: int, ended: threading.Event
    ) -> list[list[Passage]]:
        candidates = [self.urls[(first + i) % len(self.urls)] for i in range(len(self.urls))]
        reasons: dict[str, str] = {}
        for attempt in range(self._retries + 1):
            if attempt:
                (self._sleep or ended.wait)(self._pause(attempt))
            if ended.is_set():
                return []  # nobody reads it
            for url in tuple(candidates):
                try:
                    return self._ask(url, queries, top_k)
                except _Failure as failure:
                    reasons[url] = str(failure)
                    if not failure.again:
                        candidates.remove(url)
            if not candidates:
                break
        told = "; ".join(f"{url}: {reasons[url]}" for url in self.urls[:MOST_TOLD])
        if len(self.urls) > MOST_TOLD:
            told += f"; and {len(self.urls) - MOST_TOLD} more"
        raise SdarError(
            f"environment.retriever.urls: no search server answered ({told}); start one with "
            "`sdar serve-retriever` or correct the URLs, then run again: what is complete is kept"
        )

    def _pause(self, attempt: int) -> float:
        with self._lock:
            share = self._jitter.uniform(0.5, 1.0)
        return share * min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1))

    def _ask(self, url: str, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """In the form that this server last accepted, else in all."""
        known = self._forms.get(url)
        first: _Refused | None = None
        for form in sorted(FORMS, key=lambda form: form != known):
            try:
                results = self._ask_in_form(url, form, queries, top_k)
            except _Refused as failure:
                first = first or failure
                if failure.again and known:
                    break  # its form is known: this is a server in trouble
                continue
            self._forms[url] = form
            return results
        assert first is not None
        raise first

    def _ask_in_form(
        self, url: str, form: str, queries: Sequence[str], top_k: int
    ) -> list[list[Passage]]:
        options = {"topk": top_k, "return_scores": True}
        if form != "query":
            key = form.partition(" ")[0]
            answer = self._post(url, {key: list(queries), **options})
            return _results(answer, len(queries), top_k)
        answers = (self._post(url, {"query": query, **options}) for query in queries)
        return [_results(answer, 1, top_k)[0] for answer in answers]

    def _post(self, url: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            url,
            data=json.dumps(body).encode("ascii"),
            headers={"Content-Type": "application/json", "Accept": "application/json"}
            | bearer(TOKEN_VARIABLE),
        )
        try:
            with opener(url).open(request, timeout=self._timeout) as response:
                content = read_answer(response, MOST_BYTES, self._timeout)
        except urllib.error.HTTPError as error:
            with error:
                raise _status_failure(error) from error
        except TimeoutError as error:
            raise _Failure(f"no answer within {self._timeout:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            if isinstance(cause, TimeoutError):
                raise _Failure(f"no answer within {self._timeout:g} s") from error
            said = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
            raise _Failure(f"no connection ({said})") from error
        except (ValueError, OverflowError) as error:  # a host or token that no request can hold
            raise _Failure(f"no request can be made ({error})", again=False) from error
        if len(content) > MOST_BYTES:
            raise _Failure(f"an answer of more than {MOST_BYTES >> 20} MB")
        if not content.strip():
            raise _Failure("an empty answer")
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _Failure(f"not JSON but {_beginning(content)}") from error


def _endpoint(url: str) -> str:
    if not is_server_url(url):
        raise SdarError(
            f"environment.retriever.urls: {url!r} is no URL of a server; expected one such as "
            "http://127.0.0.1:8000 or http://host:8000/retrieve"
        )
    return f"{url.rstrip('/')}/retrieve" if urlsplit(url).path in ("", "/") else url


def _status_failure(error: urllib.error.HTTPError) -> _Failure:
    try:
        said = _beginning(error.read(2000))
    except (OSError, http.client.HTTPException):
        said = "nothing"
    reason = f"status {error.code}{redirection(error)}, saying {said}"
    again = error.code >= 500 or error.code in RETRIED_STATUSES
    # A server that looks for a field of another name and does not check says 500.
    kind = _Refused if error.code in (400, 422, 500) else _Failure
    return kind(reason, again)


def _beginning(content: bytes) -> str:
    text = " ".join(content.decode("utf-8", "replace").split())
    return repr(text[:80] + ("..." if len(text) > 80 else "")) if text else "nothing"


def _results(answer: Any, queries: int, top_k: int) -> list[list[Passage]]:
    """The passages in a server's answer; `_Failure` when it has another shape."""
    lists = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(lists, list):
        raise _Failure(f"JSON without a list `result`: {_beginning(json.dumps(answer).encode())}")
    if len(lists) != queries:
        raise _Failure(f"{len(lists)} results for {queries} queries")
    return [_passages(documents, top_k) for documents in lists]


def _passages(documents: Any, top_k: int) -> list[Passage]:
    if not isinstance(documents, list):
        raise _Failure(f"a result that is no list of documents but {type(documents).__name__}")
    passages = []
    for item in documents[:top_k]:
        try:
            document, score = item["document"], item.get("score", 0.0)
            identifier, contents = str(document["id"]), document["contents"]
        except (TypeError, KeyError, AttributeError):
            contents = score = identifier = None
        if not isinstance(contents, str) or not _is_number(score):
            raise _Failure('a result without {"document": {"id", "contents"}, "score"}')
        # JSON may hold half a surrogate pair, which no tokenizer takes.
        contents = contents.encode("utf-8", "replace").decode()
        passages.append(Passage(str(identifier), contents, float(score)))
    return passages


def _is_number(score: Any) -> bool:
    try:
        return isinstance(score, int | float) and math.isfinite(score)
    except OverflowError:
        return False
