"""The TextWorldExpress engine, one Java process for all episodes of this one."""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from sdar.environments.base import Observation, Task
from sdar.errors import SdarError


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
    return first


class ExpressEnvironment:
    """One episode at a time. A task's location ends in `GAME/FOLD/SEED`."""

    def __init__(self, parameters: Mapping[Any, str]) -> None:
        self._parameters = parameters
        self._interface = _gateway()._gateway.jvm.textworldexpress.runtime.PythonInterface()

    def reset(self, task: Task) -> Observation:
        self._location, self._actions = task.location, list[str]()
        return self._observation(self.start(task.location))

    def start(self, location: str, gold: bool = False) -> dict[str, Any]:
        """Begin the game of a location; `gold` also solves it."""
        game, fold, seed = location.split("/")[-3:]
        self._load(game)
        answer = self._interface.generateNewGameJSON(int(seed), fold, gold)
        state: dict[str, Any] = json.loads(answer)
        return state

    def instruction(self, location: str) -> str:
        self.start(location)
        return " ".join(self._interface.getTaskDescription().split())

    def gold_actions(self, location: str) -> list[str]:
        """The engine's own solution of a game."""
        self.start(location, gold=True)
        return list(self._interface.getGoldActionSequence())

    def seeds(self, game: str, fold: str) -> list[int]:
        """Seeds the engine keeps for a fold (train, dev, test)."""
        self._load(game)
        return list(getattr(self._interface, f"getSeeds{fold.capitalize()}")())

    def step(self, action: str) -> Observation:
        self._actions.append(action)
        replayed = self._actions[-1:]
        if "sorting/" in self._location:
            # Episodes of one seed share their objects in this game: each plays from the start.
            self.start(self._location)
            replayed = self._actions
        for taken in replayed:
            answer = self._interface.stepJSON(taken)
        return self._observation(json.loads(answer))

    def close(self) -> None:
        """Nothing: the Java process goes with this one."""

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
