"""HTTP calls to a vLLM server. Failures are `SdarError`s that name the URL."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from sdar.errors import SdarError
from sdar.web.client import bearer, is_server_url, opener, read_answer, redirection

PAUSES = (0.5, 1.0, 2.0)
"""Seconds before each further attempt to reach a server. Together far less than a server takes to
start: a restarted one has other weights, and must not pass for the one before."""
BUSY = (429, 503)
MOST_SAID = 300
MOST_BYTES = 256 << 20
LONGEST_LINE = 4 << 20
TOKEN_VARIABLE = "VLLM_API_KEY"
POLL = 2.0


class VllmHttp:
    """One server. `timeout`: seconds it may take to answer, or to send its next token."""

    def __init__(self, url: str, timeout: float, rank: int) -> None:
        if not is_server_url(url):
            raise SdarError(
                f"rollout.vllm.servers: {url!r} is no URL of a server; expected one such as "
                "http://127.0.0.1:8000"
            )
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.rank = rank
        # A stream may take longer than any of its parts.
        self._opener = opener(url, whole=False)

    def wait_until_ready(self) -> None:
        """Wait until it answers, `timeout` at most: it may still be loading."""
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                with self._opener.open(f"{self.url}/health", timeout=POLL):
                    return
            except (OSError, http.client.HTTPException, ValueError) as error:
                if time.monotonic() > deadline:
                    raise self._error(f"no answer to /health ({error})") from error
                time.sleep(POLL / 4)

    def get(self, path: str) -> Any:
        """The JSON at `path`."""
        with self._open(path, None) as answer:
            return self._json(answer)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of the answer; None where there is none."""
        with self._open(path, {} if body is None else body) as answer:
            return self._json(answer)

    def stream(self, path: str, body: dict[str, Any]) -> Iterator[Any]:
        """The JSON of each server-sent event, as they come."""
        with self._open(path, body | {"stream": True}) as answer:
            try:
                while line := answer.readline(LONGEST_LINE):
                    if len(line) == LONGEST_LINE:
                        raise self._error(f"a line of more than {LONGEST_LINE >> 20} MB")
                    text = line.decode().strip()
                    if text == "data: [DONE]":
                        return
                    if text.startswith("data: "):
                        event = json.loads(text.removeprefix("data: "))
                        if not isinstance(event, dict):
                            raise self._error(f"it says {text[:MOST_SAID]!r}")
                        if "error" in event:
                            raise self._error(f"it says {str(event['error'])[:MOST_SAID]}")
                        yield event
            except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
                raise self._error(_reason(error, self.timeout)) from error
        raise self._error("it stopped in the middle of a response")

    def _open(self, path: str, body: dict[str, Any] | None) -> Any:
        request = urllib.request.Request(
            f"{self.url}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"} | bearer(TOKEN_VARIABLE),
        )
        for pause in (*PAUSES, None):
            try:
                return self._opener.open(request, timeout=self.timeout)
            except urllib.error.HTTPError as error:
                with error:
                    said = " ".join(error.read(4000).decode("utf-8", "replace").split())
                if error.code not in BUSY or pause is None:
                    hint = ""
                    if error.code == 404:
                        hint = "; start the server with `sdar serve-policy`"
                    status = f"{path} has status {error.code}{redirection(error)}, saying "
                    status += repr(said[:MOST_SAID])
                    raise self._error(status + hint) from error
            except (OSError, http.client.HTTPException) as error:
                slow = isinstance(getattr(error, "reason", error), TimeoutError)
                if slow or pause is None:
                    raise self._error(_reason(error, self.timeout)) from error
            except (ValueError, OverflowError) as error:
                raise self._error(f"no request can be made ({error})") from error
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _json(self, answer: Any) -> Any:
        try:
            content = read_answer(answer, MOST_BYTES)
            if len(content) > MOST_BYTES:
                raise self._error(f"an answer of more than {MOST_BYTES >> 20} MB")
            return json.loads(content) if content.strip() else None
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            raise self._error(_reason(error, self.timeout)) from error

    def _error(self, what: str) -> SdarError:
        return SdarError(
            f"rank {self.rank}: vLLM server {self.url} (rollout.vllm.servers): {what}; see its "
            "log, start it again and then this run, which continues from its checkpoint"
        )


def _reason(error: Exception, timeout: float) -> str:
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError):
        return f"no answer within rollout.vllm.timeout ({timeout:g} s)"
    return f"no connection ({getattr(cause, 'strerror', None) or cause or type(cause).__name__})"
