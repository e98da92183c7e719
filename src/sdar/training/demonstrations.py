"""Expert episodes for the warm start: many worlds, each with its own habits, with and without hint.

Here the policy learns the form of a response, how to act, and to *follow* a hint; the habits of the
one world it is later trained in are left for reinforcement learning to find. With real data the
expert plays the training tasks: they have no habits that a plain episode could give away, and what
is left to find is how to act in states that the expert never comes to.
"""

import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from sdar.config import ExperimentConfig, Layout
from sdar.environments.base import (
    FIRST_OPENING,
    EnvironmentPackage,
    Knowledge,
    Moment,
    PastTurn,
    Practice,
    Practices,
)
from sdar.environments.chat import Message, chat
from sdar.environments.packages import environment_package
from sdar.environments.practices import open_practices
from sdar.errors import SdarError
from sdar.files.tables import read_table
from sdar.files.whole import write_folder, write_parquet
from sdar.progress import Progress
from sdar.rollout.turns import fit_prompt
from sdar.skills.library import SkillLibrary
from sdar.training.warm_tokenizer import pretrained_tokenizer, train_own_tokenizer

log = logging.getLogger("sdar.training")
LEAST_SOLVED = 0.1
"""Of the real tasks that the expert plays. Of fewer, what is wrong with them should be known first:
what is left to imitate would be their easiest."""
Libraries = Callable[[Knowledge | None], SkillLibrary]
_COLUMNS = pa.schema(
    {
        "episode": pa.int64(),
        "turn": pa.int64(),
        "task_type": pa.large_string(),
        "hinted": pa.bool_(),
        "system": pa.large_string(),
        "user": pa.large_string(),
        "response": pa.large_string(),
    }
)


@dataclass(frozen=True)
class Demonstration:
    """One turn to imitate: what the policy sees, and the expert's response."""

    episode: int
    turn: int
    task_type: str
    hinted: bool
    messages: tuple[Message, ...]
    response: str


class Player:
    """Plays one practice episode and knows, at every turn, what the expert would do."""

    def __init__(
        self,
        config: ExperimentConfig,
        practices: Practices,
        index: int,
        libraries: Libraries,
        *,
        opening: bool = False,
        slot: int = 0,
        tokenizer: Any = None,
    ) -> None:
        """As in `Practices.episode`. `tokenizer`: a pretrained model's, within whose limits prompts
        are cut as a rollout's are; None: they are whole."""
        self.package: EnvironmentPackage = environment_package(config.environment.name)
        self.episode = FIRST_OPENING + index if opening else index
        self.window, self.layout = config.environment.history, config.environment.prompt_layout
        self.practice: Practice = practices.episode(index, opening=opening, slot=slot)
        task_type = self.practice.task.task_type
        self.skill: str | None = None
        if self.practice.hinted:
            self.skill = libraries(self.practice.knowledge).lookup(task_type).text
        self.past: list[PastTurn] = []
        self._policy, self._tokenizer = config.policy, tokenizer

    def messages(self) -> list[Message]:
        practice = self.practice
        moment = Moment.after(
            *(self.past, practice.task, practice.observation),
            window=self.window,
            layout=self.layout,
        )
        if self._tokenizer is None:
            return self.package.build_messages(moment, self.skill)
        policy = self._policy
        limit = policy.max_prompt_tokens if self.skill is None else policy.max_teacher_prompt_tokens
        return fit_prompt(self._tokenizer, self.package, moment, self.skill, limit).messages

    def demonstrate(self) -> tuple[Demonstration, str]:
        """The expert's turn here, and the action in it."""
        thought, action = self.practice.expert_turn()
        turn = Demonstration(
            episode=self.episode,
            turn=len(self.past),
            task_type=self.practice.task.task_type,
            hinted=self.practice.hinted,
            messages=tuple(self.messages()),
            response=self.package.response(thought, action),
        )
        return turn, action

    def step(self, action: str) -> bool:
        """Act; true when the episode is over."""
        before = self.practice.observation
        after = self.practice.step(action)
        self.past.append(PastTurn(before.text, action))
        return after.won or after.done


def expert_episode(
    config: ExperimentConfig,
    practices: Practices,
    index: int,
    libraries: Libraries,
    tokenizer: Any = None,
) -> Iterator[Demonstration]:
    """One episode by the expert, with mistakes put in, so that recovery is imitated too.

    A mistake is a possible action carried out in place of the expert's, at turns drawn with
    probability `demonstrations.mistakes`; the label is always the expert's own.
    """
    player = Player(config, practices, index, libraries, tokenizer=tokenizer)
    yield from _play(config, player, config.environment.max_turns + 2)


def solved_episode(
    config: ExperimentConfig,
    practices: Practices,
    index: int,
    libraries: Libraries,
    tokenizer: Any = None,
    *,
    opening: bool = False,
) -> list[Demonstration]:
    """`expert_episode`, or nothing where the expert does not succeed within the turns there are: a
    failure is not to be imitated. Of an opening, the first turn."""
    player = Player(config, practices, index, libraries, opening=opening, tokenizer=tokenizer)
    turns = list(_play(config, player, config.environment.max_turns, mistaken=not opening))
    if not player.practice.observation.won:
        return []
    return turns[:1] if opening else turns


def _play(
    config: ExperimentConfig, player: Player, most_turns: int, mistaken: bool = True
) -> Iterator[Demonstration]:
    settings = config.warm_start.demonstrations
    rng = random.Random(f"mistakes/{settings.seed}/{player.episode}")
    for _ in range(most_turns):
        if player.practice.stuck:
            return
        turn, action = player.demonstrate()
        yield turn
        if mistaken and rng.random() < settings.mistakes:
            action = player.practice.mistake(rng)
        if player.step(action):
            return


def library_of(config: ExperimentConfig) -> Libraries:
    """The skill library with a world's habits; it is read once, and each world's is built once."""
    known: dict[Any, SkillLibrary] = {}
    plain = cache(lambda: SkillLibrary(config.skills.library, None, config.environment.name))

    def get(knowledge: Knowledge | None) -> SkillLibrary:
        key = None if knowledge is None else repr(knowledge)
        if key not in known:
            known[key] = plain().told(knowledge)
        return known[key]

    return get


def make_demonstrations(config: ExperimentConfig, layout: Layout) -> None:
    """Write `demonstrations.parquet`; for the tiny policy, the tokenizer trained on it as well."""
    tokenizer = pretrained_tokenizer(config)
    with open_practices(config, layout) as practices:
        show = in_worlds if practices.tasks is None else on_tasks
        turns = show(config, practices, tokenizer)
    own = None if tokenizer is not None else train_own_tokenizer(config, map(as_text, turns))

    def fill(folder: Path) -> None:
        if own is not None:
            own.save_pretrained(folder / "tokenizer")
        write_demonstrations(folder / "demonstrations.parquet", turns)

    layout.demonstrations.parent.mkdir(parents=True, exist_ok=True)
    write_folder(layout.demonstrations, fill)


def in_worlds(
    config: ExperimentConfig, practices: Practices, tokenizer: Any = None
) -> list[Demonstration]:
    """The demonstrations in generated worlds."""
    libraries = library_of(config)
    settings = config.warm_start.demonstrations
    turns: list[Demonstration] = []
    for index in Progress(range(settings.episodes), desc="demonstrations", unit="episode"):
        turns.extend(expert_episode(config, practices, index, libraries, tokenizer))
    told = libraries(None).told  # a world that nothing else is set in: its library is not kept
    for number in Progress(range(settings.openings), desc="openings", unit="task"):
        player = Player(config, practices, number, told, opening=True, tokenizer=tokenizer)
        turns.append(player.demonstrate()[0])
    return turns


def on_tasks(
    config: ExperimentConfig, practices: Practices, tokenizer: Any = None
) -> list[Demonstration]:
    """The demonstrations on real training tasks that the expert solves.

    For one that it does not solve another is played, until each has had its turn. Raises
    `SdarError` where it solves hardly any.
    """
    libraries = library_of(config)
    settings = config.warm_start.demonstrations
    turns: list[Demonstration] = []
    solved = played = 0
    with Progress(total=settings.episodes, desc="demonstrations", unit="episode") as bar:
        for index in range(max(settings.episodes, practices.tasks or 0)):
            if solved == settings.episodes:
                break
            shown = solved_episode(config, practices, index, libraries, tokenizer)
            played += 1
            solved += bool(shown)
            turns += shown
            bar.update(bool(shown))
    _check_solved(config, solved, played)
    for number in Progress(range(settings.openings), desc="openings", unit="task"):
        turns += solved_episode(config, practices, number, libraries, tokenizer, opening=True)
    return turns


def _check_solved(config: ExperimentConfig, solved: int, played: int) -> None:
    """Say how many tasks were left out; refuse where hardly any are left."""
    environment = config.environment
    if not solved or solved < LEAST_SOLVED * played:
        raise SdarError(
            f"environment.data: the expert solves {solved} of the first {played} training tasks of "
            f"{environment.data} within environment.max_turns ({environment.max_turns}), too few "
            "to imitate: raise environment.max_turns, give data (and, where tasks are questions, "
            "passages) that the tasks can be solved from, or set warm_start.enabled to false"
        )
    if solved < played:
        log.warning(
            "demonstrations: the expert did not solve %d of the %d training tasks that it played "
            "within environment.max_turns (%d); they are left out, and %d episodes of %d are shown",
            *(played - solved, played, environment.max_turns, solved),
            config.warm_start.demonstrations.episodes,
        )


def as_text(turn: Demonstration) -> str:
    """The whole conversation with its markers, as the tokenizer's corpus."""
    parts = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in turn.messages]
    return "".join(parts) + f"<|im_start|>assistant\n{turn.response}<|im_end|>"


def write_demonstrations(path: Path, turns: list[Demonstration]) -> None:
    """One row per turn; whole or not at all."""
    rows: list[dict[str, Any]] = []
    for turn in turns:
        roles = {message["role"]: message["content"] for message in turn.messages}
        rows.append(vars(turn) | {"system": roles.get("system"), "user": roles["user"]})
    write_parquet(path, pa.Table.from_pylist(rows, schema=_COLUMNS))


def read_demonstrations(
    path: Path,
    remedy: str = "make it with `sdar demonstrations`",
    *,
    may_be_empty: bool = False,
) -> list[Demonstration]:
    """What `write_demonstrations` wrote. Raises `SdarError` when the file is missing or broken, or
    empty and not allowed to be."""
    table = read_table(path, _COLUMNS, remedy)
    full = (name for name in _COLUMNS.names if name != "system")
    empty = not table.num_rows and not may_be_empty
    if empty or any(table[name].null_count for name in full):
        raise SdarError(f"{path} cannot be read (it has no rows, or rows with gaps): {remedy}")
    return [
        Demonstration(messages=tuple(chat(row.pop("user"), row.pop("system"))), **row)
        for row in table.to_pylist()
    ]
