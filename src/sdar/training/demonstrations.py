"""Expert episodes for the warm start: many worlds, each with its own habits, with and without hint.

Here the policy learns the form of a response, how to act, and to *follow* a hint; the habits of the
one world it is later trained in are left for reinforcement learning to find.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
)
from sdar.environments.chat import Message, chat
from sdar.environments.packages import environment_package
from sdar.errors import SdarError
from sdar.files.tables import read_table
from sdar.files.whole import write_folder, write_parquet
from sdar.progress import Progress
from sdar.skills.library import SkillLibrary

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
        self, config: ExperimentConfig, index: int, libraries: Libraries, *, opening: bool = False
    ) -> None:
        self.package: EnvironmentPackage = environment_package(config.environment.name)
        self.episode = FIRST_OPENING + index if opening else index
        self.window = config.environment.history
        self.practice: Practice = self.package.practice(config, index, opening=opening)
        task_type = self.practice.task.task_type
        self.skill: str | None = None
        if self.practice.hinted:
            self.skill = libraries(self.practice.knowledge).lookup(task_type).text
        self.past: list[PastTurn] = []

    def messages(self) -> list[Message]:
        practice = self.practice
        moment = Moment.after(self.past, practice.task, practice.observation, window=self.window)
        return self.package.build_messages(moment, self.skill)

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
    config: ExperimentConfig, index: int, libraries: Libraries
) -> Iterator[Demonstration]:
    """One episode by the expert, with mistakes put in, so that recovery is imitated too.

    A mistake is a possible action carried out in place of the expert's, at turns drawn with
    probability `demonstrations.mistakes`; the label is always the expert's own.
    """
    player = Player(config, index, libraries)
    rng = random.Random(f"mistakes/{config.warm_start.demonstrations.seed}/{index}")
    for _ in range(config.environment.max_turns + 2):
        turn, action = player.demonstrate()
        yield turn
        if rng.random() < config.warm_start.demonstrations.mistakes:
            action = player.practice.mistake(rng)
        if player.step(action):
            return


def library_of(config: ExperimentConfig) -> Libraries:
    """The skill library with a world's habits (each world's is built once)."""
    known: dict[Any, SkillLibrary] = {}

    def get(knowledge: Knowledge | None) -> SkillLibrary:
        key = None if knowledge is None else repr(knowledge)
        if key not in known:
            known[key] = SkillLibrary(config.skills.library, knowledge, config.environment.name)
        return known[key]

    return get


def make_demonstrations(config: ExperimentConfig, layout: Layout) -> None:
    """Write `demonstrations.parquet` and the tokenizer trained on it."""
    from sdar.policy.tokenizer import train_tokenizer

    libraries = library_of(config)
    count = config.warm_start.demonstrations.episodes
    turns: list[Demonstration] = []
    for index in Progress(range(count), desc="demonstrations", unit="episode"):
        turns.extend(expert_episode(config, index, libraries))
    openings = range(config.warm_start.demonstrations.openings)
    for number in Progress(openings, desc="openings", unit="task"):
        # A world that nothing else is set in: its library is not worth keeping.
        player = Player(config, number, library_of(config), opening=True)
        turns.append(player.demonstrate()[0])
    tiny = config.policy.tiny
    names = environment_package(config.environment.name).names()
    corpus = [as_text(turn) for turn in turns]
    tokenizer = train_tokenizer(corpus, tiny.vocabulary, tiny.context, names)

    def fill(folder: Path) -> None:
        tokenizer.save_pretrained(folder / "tokenizer")
        write_demonstrations(folder / "demonstrations.parquet", turns)

    layout.demonstrations.parent.mkdir(parents=True, exist_ok=True)
    write_folder(layout.demonstrations, fill)


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
    path: Path, remedy: str = "make it with `sdar demonstrations`"
) -> list[Demonstration]:
    """What `write_demonstrations` wrote. Raises `SdarError` when the file is missing or broken."""
    table = read_table(path, _COLUMNS, remedy)
    full = (name for name in _COLUMNS.names if name != "system")
    if not table.num_rows or any(table[name].null_count for name in full):
        raise SdarError(f"{path} cannot be read (it has no rows, or rows with gaps): {remedy}")
    return [
        Demonstration(messages=tuple(chat(row.pop("user"), row.pop("system"))), **row)
        for row in table.to_pylist()
    ]
