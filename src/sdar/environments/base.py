"""What every environment looks like to the rest of the code.

A `Task` is one thing to do (a game, a goal, a question); a `TextEnvironment` plays one episode
of it at a time. Both are plain data and plain text: no model, no tokens.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from sdar.environments.chat import Message, PromptLayout
from sdar.environments.parsing import ParsedAction
from sdar.environments.recorded import RecordedFormat
from sdar.files.digest import json_digest


@dataclass(frozen=True)
class Task:
    """One task of a data set.

    `id` is unique and stable within the data set (for ALFWorld: the game's folder relative to
    `json_2.1.1`); `location` is where the environment finds it (for ALFWorld: the path of
    `game.tw-pddl`); `task_type` is the exact key skills are looked up by. `data_set` is the part
    of the split it is reported under, where a split is made of several (Search-QA: nq, popqa, ...).
    `content` is a digest of what an episode is played from and its end judged by, as far as it is
    this task's own: the game, the goal, the accepted answers.
    """

    id: str
    split: str
    task_type: str
    instruction: str
    location: str
    data_set: str = ""
    content: str = ""

    @property
    def digest(self) -> str:
        """Of all that the task is, wherever it lies."""
        return json_digest({k: v for k, v in self.as_dict().items() if k != "location"})[:16]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Observation:
    """What the environment says after a reset or an action.

    `admissible_actions` is what a prompt may show (ALFWorld: the engine's list without `help`).
    `done` is the environment's own end; turn limits are the collector's. `score` is the
    environment's own measure of how well it went, 0-1, where that is more than success (WebShop's
    reward).
    """

    text: str
    admissible_actions: tuple[str, ...]
    won: bool
    done: bool
    score: float | None = None


@dataclass(frozen=True)
class PastTurn:
    """One (observation, action) pair of the history window shown in a prompt."""

    observation: str
    action: str


@dataclass(frozen=True)
class Moment:
    """What there is to see at one turn: all that the prompts of student and teacher are made from.

    `history` is the window shown of the turns before, oldest first; `observation` and
    `admissible_actions` are the environment's last words. `index` counts the turns taken so far,
    so the first turn is 0. `layout` is the experiment's: student and teacher read the same.
    """

    task: Task
    history: tuple[PastTurn, ...]
    observation: str
    admissible_actions: tuple[str, ...]
    index: int
    layout: PromptLayout = "paper"

    @classmethod
    def after(
        cls,
        past: Sequence[PastTurn],
        task: Task,
        observation: Observation,
        *,
        window: int,
        layout: PromptLayout = "paper",
    ) -> "Moment":
        """After all turns so far, `past`, of which at most the last `window` are shown."""
        history = tuple(past[max(0, len(past) - window) :])
        return cls(
            task, history, observation.text, observation.admissible_actions, len(past), layout
        )

    def without_oldest(self, count: int) -> "Moment":
        """The same turn with that many entries fewer in its history."""
        return replace(self, history=self.history[count:])


class TextEnvironment(Protocol):
    """Plays one episode at a time; `reset` starts another, possibly of another task."""

    def reset(self, task: Task) -> Observation: ...

    def step(self, action: str) -> Observation: ...

    def close(self) -> None: ...


class EnvironmentPool(Protocol):
    """Many episodes at once. Slots are the caller's names for them (0..n-1).

    Results depend on (task, actions) alone, never on the number of workers. `send` does not wait:
    its slots take these actions while the caller does something else, and `receive` waits until all
    of `slots` have answered; each slot's answer has to be received before its next action. `step`
    does both. `prefetch` is a hint: these tasks come next, load them while the model computes.
    """

    def reset(self, tasks: dict[int, Task]) -> dict[int, Observation]: ...

    def step(self, actions: dict[int, str]) -> dict[int, Observation]: ...

    def send(self, actions: dict[int, str]) -> None: ...

    def receive(self, slots: Sequence[int]) -> dict[int, Observation]: ...

    def prefetch(self, tasks: list[Task]) -> None: ...

    def close(self) -> None: ...


class Knowledge(Protocol):
    """What the privileged text knows of the world that tasks are set in: it fills a skill's
    `{habits}` line."""

    def habits_text(self, task_type: str) -> str: ...


class Expert(Protocol):
    """A scripted policy beside one episode. It knows what the text says and, if it was told, the
    world's habits; whoever acts, it says what it would do next."""

    def act(self) -> tuple[str, str]:
        """(thought, action) for the state the episode is in; changes nothing."""
        ...

    def observe(self, action: str, observation: Observation) -> None:
        """Take in one turn of the episode: the action as sent, and the answer."""
        ...


class TaskExpert(Expert, Protocol):
    """An expert beside a real training task."""

    @property
    def stuck(self) -> bool:
        """It knows of nothing here that could still succeed: what it says is not to be imitated."""
        ...


MakeExpert = Callable[[Task, Observation, int], TaskExpert]
"""An expert at the start of a task, from the task, its first observation, and a seed of the choices
that nothing else decides."""

FIRST_OPENING = 100_000_000
"""Openings are numbered from here, after all episodes of practice."""


class Practice(Protocol):
    """One episode of the warm start, with the expert beside it: set in a world of its own, or of a
    real training task.

    A function of (configuration, index) alone. `hinted`: the prompt holds the skill as told with
    `knowledge`, and the expert knows it too.
    """

    @property
    def task(self) -> Task: ...

    @property
    def hinted(self) -> bool: ...

    @property
    def knowledge(self) -> "Knowledge | None": ...

    @property
    def observation(self) -> Observation:
        """What the environment said last; after construction, its first words."""
        ...

    @property
    def stuck(self) -> bool:
        """The expert's turn here is not to be imitated (see `TaskExpert`)."""
        ...

    def expert_turn(self) -> tuple[str, str]:
        """(thought, action) of the expert here."""
        ...

    def mistake(self, draw: Any) -> str:
        """A possible action that nobody asked for; `draw` is a `random.Random`."""
        ...

    def step(self, action: str) -> Observation:
        """Act; `observation` is then the answer."""
        ...


class Practices(Protocol):
    """The warm start's episodes of one configuration (see `practices.open_practices`)."""

    @property
    def tasks(self) -> int | None:
        """How many real training tasks they are; None: each is set in a generated world."""
        ...

    def episode(self, index: int, *, opening: bool = False, slot: int = 0) -> Practice:
        """Episode number `index`, at its start; `opening`: hinted, of a task that no other episode
        plays as long as there are such. The next episode of the same slot ends this one."""
        ...


class EnvironmentPackage(Protocol):
    """One environment as the rest of the code sees it.

    A package `sdar.environments.<name>` offers it as `package.PACKAGE`; `environments.packages`
    finds it by the configuration's `environment.name`. `folder` is always the tasks' folder.
    """

    @property
    def name(self) -> str: ...

    @property
    def parsing_cases(self) -> str | None:
        """The key of its cases in a file of recorded responses and actions; None: it has none."""
        ...

    @property
    def recorded(self) -> Sequence[RecordedFormat]:
        """The files of recorded cases that `sdar replay` compares it with."""
        ...

    @property
    def world_file(self) -> str | None:
        """The file in the tasks' folder that says which world generated tasks are set in."""
        ...

    def make_tasks(
        self, environment: Any, panels: Sequence[str], folder: Path
    ) -> tuple[list[Task], str]:
        """Write what the environment needs into `folder`. The tasks for training and `panels`,
        locations relative to `folder` (or absolute), and one sentence on where they come from;
        `environment` is its section of the configuration."""
        ...

    def knowledge(self, folder: Path) -> Knowledge | None:
        """Of the world in `folder`; None where there is none (real data)."""
        ...

    def open_pool(self, environment: Any, folder: Path) -> EnvironmentPool:
        """The environment for many episodes; `environment` is its section of the configuration."""
        ...

    def build_messages(self, moment: Moment, skill: str | None = None) -> list[Message]:
        """The chat of one turn, in the moment's layout; the skill, unless None or empty, has the
        role `system`."""
        ...

    def parse(self, response: str) -> ParsedAction:
        """The action in a response, and whether the response has the required form."""
        ...

    def response(self, thought: str, action: str) -> str:
        """The response that says this, in the form that `parse` reads."""
        ...

    def is_admissible(self, action: str, admissible_actions: Sequence[str]) -> bool:
        """The action is one of those offered (a search may hold any query)."""
        ...

    def expert(self, task: Task, first: Observation, knowledge: Knowledge | None) -> Expert:
        """The expert at the start of `task`; with `knowledge` it is told the habits."""
        ...

    def experts(self, environment: Any, folder: Path) -> MakeExpert:
        """The experts beside real training tasks, for the warm start. They may know the solution,
        and say only what can be told from the episode."""
        ...

    def mistake(self, task: Task, observation: Observation, draw: Any) -> str:
        """A possible action that nobody asked for, where the episode is; `draw` is a
        `random.Random`."""
        ...

    def names(self) -> Collection[str]:
        """Words (in lower case) that a tiny policy has to copy: each stands alone in its
        vocabulary. Numbered names ("drawer 3") do so anyway."""
        ...

    def practice(self, config: Any, index: int, *, opening: bool = False) -> Practice:
        """The warm start's episode number `index` in a generated world; `opening`: hinted, in a
        world that no other episode is set in."""
        ...
