"""Expert episodes for the warm start: many homes, each with its own habits, with and without hint.

What the policy is to learn here is the form of a response, how to act, and to *follow* a hint; the
habits of the one home it is later trained in are left for reinforcement learning to find. Played in
the text-equal simulator; training and evaluation use the engine.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from sdar.config import ExperimentConfig, Layout
from sdar.environments.alfworld.abstract import Game
from sdar.environments.alfworld.experts import ExplorerExpert
from sdar.environments.alfworld.generator import abstract_game
from sdar.environments.alfworld.home import Home
from sdar.environments.alfworld.observed import Observed
from sdar.environments.alfworld.prompt import Message, build_messages
from sdar.environments.alfworld.simulator import SimulatedEnvironment
from sdar.environments.base import Observation, PastTurn
from sdar.errors import SdarError
from sdar.progress import Progress
from sdar.skills.library import SkillLibrary

# Homes of demonstrations are numbered from here, far from any home one would train in.
FIRST_HOME = 1_000_000
FIRST_OPENING = 100_000_000
_COLUMNS = ("episode", "turn", "task_type", "hinted", "system", "user", "response")


@dataclass(frozen=True)
class Situation:
    """A game of the warm start, the home it is set in, and whether its prompt holds the skill."""

    index: int
    game: Game
    home: Home
    hinted: bool


@dataclass(frozen=True)
class Demonstration:
    """One turn to imitate: what the policy sees, and what the expert says to it."""

    episode: int
    turn: int
    task_type: str
    hinted: bool
    messages: tuple[Message, ...]
    response: str


def situation(config: ExperimentConfig, index: int) -> Situation:
    """The warm start's game number `index`: a function of the configuration and the number."""
    demonstrations, environment = config.warm_start.demonstrations, config.environment
    home_seed = FIRST_HOME + index % demonstrations.homes
    home = Home.draw(home_seed, environment.habit, environment.size)
    game = abstract_game(
        demonstrations.seed, "train", index, home, environment.task_types, train_games=1
    )
    # Drawn, not alternated: neither a task type nor a home may go with the hint.
    draw = random.Random(f"hinted/{demonstrations.seed}/{index}").random()
    return Situation(index, game, home, hinted=draw < demonstrations.hinted)


def opening(config: ExperimentConfig, number: int) -> Situation:
    """A further game, hinted, in a home that no other game is set in."""
    index, environment = FIRST_OPENING + number, config.environment
    home = Home.draw(FIRST_HOME + index, environment.habit, environment.size)
    seed = config.warm_start.demonstrations.seed
    game = abstract_game(seed, "train", index, home, environment.task_types, train_games=1)
    return Situation(index, game, home, hinted=True)


class Player:
    """Plays one situation in the simulator and knows, at every turn, what the expert would do."""

    def __init__(self, config: ExperimentConfig, case: Situation, skills: SkillLibrary) -> None:
        self.history_length = config.environment.history
        self.case = case
        self.skill = skills.lookup(case.game.task_type).text if case.hinted else None
        hint = case.home.usual_places(case.game.task_type) if case.hinted else None
        self.expert = ExplorerExpert(seed=case.index, order="sweep", hint=hint)
        self.environment = SimulatedEnvironment()
        self.observation: Observation = self.environment.reset(case.game)
        self.instruction = case.game.sentence
        self.seen = Observed.start(case.game.task_type, self.instruction, self.observation)
        self.history: list[PastTurn] = []

    def messages(self) -> list[Message]:
        window = self.history[-self.history_length :] if self.history_length else []
        return build_messages(
            self.instruction,
            window,
            self.observation.text,
            self.observation.admissible_actions,
            len(self.history),
            self.skill,
        )

    def demonstrate(self) -> tuple[Demonstration, str]:
        """The expert's turn here, and the action in it."""
        thought, action = self.expert.act(self.seen)
        turn = Demonstration(
            episode=self.case.index,
            turn=len(self.history),
            task_type=self.case.game.task_type,
            hinted=self.case.hinted,
            messages=tuple(self.messages()),
            response=f"<think>{thought}</think><action>{action}</action>",
        )
        return turn, action

    def step(self, action: str) -> bool:
        """Act; true when the game is won."""
        before = self.observation
        self.observation = self.environment.step(action)
        self.seen.update(action, self.observation)
        self.history.append(PastTurn(before.text, action))
        return self.observation.won


def expert_episode(
    config: ExperimentConfig, index: int, skills: Callable[[Home], SkillLibrary]
) -> Iterator[Demonstration]:
    """One episode by the expert, with mistakes put in: what it says to them is worth imitating.

    A mistake is a random admissible action carried out in place of the expert's, at a turn drawn
    with probability `demonstrations.mistakes`; the label is always the expert's own turn.
    """
    case = situation(config, index)
    player = Player(config, case, skills(case.home))
    rng = random.Random(f"mistakes/{config.warm_start.demonstrations.seed}/{index}")
    for _ in range(config.environment.max_turns + 2):
        turn, action = player.demonstrate()
        yield turn
        if rng.random() < config.warm_start.demonstrations.mistakes:
            action = rng.choice(player.observation.admissible_actions)
        if player.step(action):
            return


def library_of(config: ExperimentConfig) -> Callable[[Home], SkillLibrary]:
    """The skill library as told in a given home (each home's is built once)."""
    known: dict[int, SkillLibrary] = {}

    def get(home: Home) -> SkillLibrary:
        if home.seed not in known:
            known[home.seed] = SkillLibrary(config.skills.library, home)
        return known[home.seed]

    return get


def make_demonstrations(config: ExperimentConfig, layout: Layout) -> None:
    """Write `demonstrations.parquet` and the tokenizer trained on it."""
    from sdar.policy.tokenizer import train_tokenizer

    skills = library_of(config)
    count = config.warm_start.demonstrations.episodes
    turns: list[Demonstration] = []
    for index in Progress(range(count), desc="demonstrations", unit="episode"):
        turns.extend(expert_episode(config, index, skills))
    openings = range(config.warm_start.demonstrations.openings)
    for number in Progress(openings, desc="openings", unit="game"):
        case = opening(config, number)
        turns.append(
            Player(config, case, SkillLibrary(config.skills.library, case.home)).demonstrate()[0]
        )
    folder = layout.demonstrations
    folder.mkdir(parents=True, exist_ok=True)
    tiny = config.policy.tiny
    tokenizer = train_tokenizer([as_text(turn) for turn in turns], tiny.vocabulary, tiny.context)
    tokenizer.save_pretrained(folder / "tokenizer")
    write_demonstrations(folder / "demonstrations.parquet", turns)


def as_text(turn: Demonstration) -> str:
    """The whole conversation with its markers, as the tokenizer's corpus."""
    parts = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in turn.messages]
    return "".join(parts) + f"<|im_start|>assistant\n{turn.response}<|im_end|>"


def write_demonstrations(path: Path, turns: list[Demonstration]) -> None:
    """One row a turn; written under another name first, so that a cut-off file never counts."""
    rows: list[dict[str, Any]] = []
    for turn in turns:
        roles = {message["role"]: message["content"] for message in turn.messages}
        rows.append(
            {
                "episode": turn.episode,
                "turn": turn.turn,
                "task_type": turn.task_type,
                "hinted": turn.hinted,
                "system": roles.get("system"),
                "user": roles["user"],
                "response": turn.response,
            }
        )
    partial = path.with_suffix(".partial")
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(partial)
    partial.replace(path)


def read_demonstrations(
    path: Path, remedy: str = "make it with `sdar demonstrations`"
) -> list[Demonstration]:
    """What `write_demonstrations` wrote. Raises `SdarError` when the file is missing or broken."""
    try:
        rows = pl.read_parquet(path).select(_COLUMNS).to_dicts()
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SdarError(f"{path} cannot be read ({reason}): {remedy}") from None
    turns = []
    for row in rows:
        messages = [{"role": "user", "content": row["user"]}]
        if row["system"] is not None:
            messages.insert(0, {"role": "system", "content": row["system"]})
        turns.append(
            Demonstration(
                row["episode"],
                row["turn"],
                row["task_type"],
                row["hinted"],
                tuple(messages),
                row["response"],
            )
        )
    return turns
