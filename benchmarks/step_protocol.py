"""A process that does a piece of work for each line it is sent, and answers with seconds.

A line on its stdin is a word: what to do. The answer is one line of JSON on what was its stdout:
numbers by name, or `{"error": "a sentence"}`. What else is printed there goes to stderr. An empty
line or the end of stdin ends it. Uses nothing but the standard library: other environments' Pythons
and other commits run it, too.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

READY = "ready"
"""The word that asks for what the work is: samples, tokens."""


class ServerError(Exception):
    """A process that did not do its work, in one sentence."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one piece of work, by the wall and by the processor, and how much work it was."""

    wall: float
    cpu: float
    work: float = 1.0


def stopwatch(threads: int) -> Callable[[], tuple[float, float]]:
    """Reads the wall's clock and the processor's: this thread's, which other processes do not
    disturb, or with several threads the whole process's."""
    cpu = time.thread_time if threads == 1 else time.process_time
    return lambda: (time.perf_counter(), cpu())


@contextmanager
def private_output() -> Iterator[TextIO]:
    """What was stdout, for answers alone; prints of this process and its children go to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with answers:
        yield answers


def requests(lines: TextIO) -> Iterator[str]:
    """The words that are sent, to the end."""
    while word := lines.readline().strip():
        yield word


def serve(do: Callable[[str], Mapping[str, Any]], lines: TextIO, answers: TextIO) -> None:
    """Answer each word with what `do` returns, or with the error it raised, and go on."""
    for word in requests(lines):
        try:
            answer = do(word)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        put(answers, answer)


def put(answers: TextIO, answer: Mapping[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


class StepServer:
    """The other end: starts the process, and asks it. What it prints is kept for its errors."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], patience: float
    ) -> None:
        self.name = name
        self.patience = patience
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115  closed by `close`
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            env=dict(environment),
            encoding="utf-8",
        )

    def ask(self, word: str) -> dict[str, Any]:
        """Send a word and wait for the answer. Raises ServerError for an error, a process that
        ended, and one that says nothing for `patience` seconds, which is ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        guard = threading.Timer(self.patience, self._process.kill)
        guard.start()
        try:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        finally:
            guard.cancel()
        if not line:
            self._end()
            raise ServerError(f"{self.name}: ended at `{word}`{self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ServerError(f"{self.name}: {answer['error']}")
        return answer

    def time(self, word: str, per: str | None = None) -> Timing:
        """Ask, and take the answer as seconds; `per` names what the work is counted in."""
        answer = self.ask(word)
        return Timing(answer["wall"], answer["cpu"], 1.0 if per is None else float(answer[per]))

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self._end()
        self._printed.close()

    def _end(self) -> None:
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _last_words(self) -> str:
        self._printed.seek(0)
        lines = self._printed.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1].strip()[:300]}" if lines else ""


def python_with(source: Path | None) -> dict[str, str]:
    """The environment of a process that imports `sdar` from there; None: from where we do. One
    thread unless the work says otherwise, and threads that wait do not spin."""
    environment = os.environ | {"OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
    if source is not None:
        others = os.environ.get("PYTHONPATH")
        environment["PYTHONPATH"] = str(source) + (os.pathsep + others if others else "")
    return environment


def main_arguments() -> dict[str, Any]:
    """Of a server: one argument, JSON, or @ and a file of it."""
    text = sys.argv[1]
    if text.startswith("@"):
        text = Path(text[1:]).read_text(encoding="utf-8")
    given: dict[str, Any] = json.loads(text)
    return given
