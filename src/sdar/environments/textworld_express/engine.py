"""The TextWorldExpress engine, one Java process for all episodes of this one."""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from sdar.environments.base import Observation, Task
from sdar.errors import SdarError

WORKER_SECONDS = 300.0
"""How long the Java process may take for a call, unless the configuration says it."""


@cache
def _gateway() -> Any:
    """The Java process, started when the first episode is. It ends with this process."""
    try:
        from textworld_express import TextWorldExpressEnv

        first = TextWorldExpressEnv()
    except ImportError:
        raise SdarError(
            "environment.name: textworld_express needs its package: pip install 'sdar[express]'"
        ) from None
    except (OSError, RuntimeError) as error:
        raise SdarError(
            f"environment.name: textworld_express runs on Java, which did not start ({error}): "
            "install a Java runtime (8 or later) so that `java -version` works"
        ) from error
    # It reports in full, with a traceback, what is said here in one sentence.
    logging.getLogger("py4j").addHandler(logging.NullHandler())
    return first


@contextlib.contextmanager
def _answering(gateway: Any, seconds: float, asked: str) -> Iterator[None]:
    """Calls of the Java process. Raises `SdarError` naming it, and ends it, where it has ended or
    says nothing for `seconds`."""
    from py4j.protocol import Py4JError, Py4JJavaError

    client, process = gateway._gateway._gateway_client, gateway._gateway.java_process
    client.gateway_parameters.read_timeout = seconds
    for connection in client.deque:
        connection.socket.settimeout(seconds)
    try:
        yield
    except Py4JJavaError:
        raise  # it answered
    except Py4JError as error:
        code = process.poll()
        how = f"has not answered for {seconds:g} s" if code is None else f"ended (exit code {code})"
        client.is_connected = False  # nobody asks it to forget objects that are collected
        process.kill()
        _gateway.cache_clear()
        raise SdarError(
            f"environment textworld_express: Java process {process.pid}, playing {asked}, {how}: "
            "free memory, or raise environment.worker_timeout, then run the command again"
        ) from error


class ExpressEnvironment:
    """One episode at a time. A task's location ends in `GAME/FOLD/SEED`."""

    def __init__(self, parameters: Mapping[Any, str], seconds: float = WORKER_SECONDS) -> None:
        """`seconds`: how long the Java process may take for a call before it counts as lost."""
        self._parameters = parameters
        self._seconds = seconds
        self._gateway = _gateway()
        with self._answering("nothing yet"):
            self._interface = self._gateway._gateway.jvm.textworldexpress.runtime.PythonInterface()

    def reset(self, task: Task) -> Observation:
        self._location, self._actions = task.location, list[str]()
        with self._answering(task.location):
            return self._observation(self._start(task.location))

    def _start(self, location: str, gold: bool = False) -> dict[str, Any]:
        """Begin the game of a location; `gold` also solves it."""
        game, fold, seed = location.split("/")[-3:]
        self._load(game)
        answer = self._interface.generateNewGameJSON(int(seed), fold, gold)
        state: dict[str, Any] = json.loads(answer)
        return state

    def instruction(self, location: str) -> str:
        with self._answering(location):
            self._start(location)
            return " ".join(self._interface.getTaskDescription().split())

    def gold_actions(self, location: str) -> list[str]:
        """The engine's own solution of a game."""
        with self._answering(location):
            self._start(location, gold=True)
            return list(self._interface.getGoldActionSequence())

    def seeds(self, game: str, fold: str) -> list[int]:
        """Seeds the engine keeps for a fold (train, dev, test)."""
        with self._answering(f"{game}/{fold}"):
            self._load(game)
            return list(getattr(self._interface, f"getSeeds{fold.capitalize()}")())

    def step(self, action: str) -> Observation:
        self._actions.append(action)
        replayed = self._actions[-1:]
        with self._answering(self._location):
            if "sorting/" in self._location:
                # Episodes of one seed share their objects in this game: each plays from the start.
                self._start(self._location)
                replayed = self._actions
            for taken in replayed:
                answer = self._interface.stepJSON(taken)
        return self._observation(json.loads(answer))

    def close(self) -> None:
        """Nothing: the Java process goes with this one."""

    def _answering(self, asked: str) -> contextlib.AbstractContextManager[None]:
        return _answering(self._gateway, self._seconds, asked)

    def _load(self, game: str) -> None:
        problem = self._interface.load(game, self._parameters.get(game, ""))
        if problem:
            raise SdarError(f"environment.parameters: {game} cannot be made: {problem}")

    @staticmethod
    def _observation(state: dict[str, Any]) -> Observation:
        won = bool(state["tasksuccess"]) or state["score"] >= 1.0
        return Observation(
            text=" ".join(state["observation"].split()),
            # The engine lists them in the order of a hash.
            admissible_actions=tuple(sorted(set(state["validActions"]))),
            won=won,
            done=won or bool(state["taskfailure"]),
            score=max(0.0, float(state["score"])),
        )
