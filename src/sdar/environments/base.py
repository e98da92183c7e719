"""What every environment looks like to the rest of the code.

A `Task` is one thing to do (a game, a goal, a question); a `TextEnvironment` plays one episode
of it at a time. Both are plain data and plain text: no model, no tokens.
"""

from dataclasses import asdict, dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Task:
    """One task of a data set.

    `id` is unique and stable within the data set (for ALFWorld: the game's folder relative to
    `json_2.1.1`); `location` is where the environment finds it (for ALFWorld: the path of
    `game.tw-pddl`); `task_type` is the exact key skills are looked up by.
    """

    id: str
    split: str
    task_type: str
    instruction: str
    location: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Observation:
    """What the environment says after a reset or an action.

    `admissible_actions` is what a prompt may show (ALFWorld: the engine's list without `help`).
    `done` is the environment's own end (success); turn limits are the collector's.
    """

    text: str
    admissible_actions: tuple[str, ...]
    won: bool
    done: bool


@dataclass(frozen=True)
class PastTurn:
    """One (observation, action) pair of the history window shown in a prompt."""

    observation: str
    action: str


class TextEnvironment(Protocol):
    """Plays one episode at a time; `reset` starts another, possibly of another task."""

    def reset(self, task: Task) -> Observation: ...

    def step(self, action: str) -> Observation: ...

    def close(self) -> None: ...


class EnvironmentPool(Protocol):
    """Many episodes at once. Slots are the caller's names for them (0..n-1).

    Results depend on (task, actions) alone, never on the number of workers. `prefetch` is a hint:
    these tasks come next, load them while the model computes.
    """

    def reset(self, tasks: dict[int, Task]) -> dict[int, Observation]: ...

    def step(self, actions: dict[int, str]) -> dict[int, Observation]: ...

    def prefetch(self, tasks: list[Task]) -> None: ...

    def close(self) -> None: ...
