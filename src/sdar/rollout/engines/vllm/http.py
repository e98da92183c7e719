"""HTTP calls to a vLLM server. Failures are `SdarError`s that name the URL."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from sdar.errors import SdarError

PAUSES = (0.5, 1.0, 2.0)
"""Seconds before each further attempt to reach a server. Together far less than a server takes to
start: a restarted one has other weights, and must not pass for the one before."""
BUSY = (429, 503)
MOST_SAID = 300
POLL = 2.0


class VllmHttp:
    """One server. `timeout`: seconds it may take to answer, or to send its next token."""

    def __init__(self, url: str, timeout: float, rank: int) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SdarError(
                f"rollout.vllm.servers: {url!r} is no URL of a server; expected one such as "
                "http://127.0.0.1:8000"
            )
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.rank = rank
        local = parts.hostname in ("localhost", "::1") or parts.hostname.startswith("127.")
        # A proxy named in the environment is for other machines, never for this one.
        handlers = [urllib.request.ProxyHandler({})] if local else []
        self._opener = urllib.request.build_opener(*handlers)

    def wait_until_ready(self) -> None:
        """Wait until it answers, `timeout` at most: it may still be loading."""
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                with self._opener.open(f"{self.url}/health", timeout=POLL):
                    return
            except (OSError, http.client.HTTPException) as error:
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
                for line in answer:
                    text = line.decode().strip()
                    if text == "data: [DONE]":
                        return
                    if text.startswith("data: "):
                        event = json.loads(text.removeprefix("data: "))
                        if "error" in event:
                            raise self._error(f"it says {str(event['error'])[:MOST_SAID]}")
                        yield event
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise self._error(_reason(error, self.timeout)) from error
        raise self._error("it stopped in the middle of a response")

    def _open(self, path: str, body: dict[str, Any] | None) -> Any:
        request = urllib.request.Request(
            f"{self.url}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
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
                    status = f"{path} has status {error.code}, saying {said[:MOST_SAID]!r}"
                    raise self._error(status + hint) from error
            except (OSError, http.client.HTTPException) as error:
                slow = isinstance(getattr(error, "reason", error), TimeoutError)
                if slow or pause is None:
                    raise self._error(_reason(error, self.timeout)) from error
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _json(self, answer: Any) -> Any:
        try:
            content = answer.read()
            return json.loads(content) if content.strip() else None
        except (OSError, http.client.HTTPException, ValueError) as error:
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
