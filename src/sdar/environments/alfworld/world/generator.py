"""Generated ALFWorld games: which game belongs to (seed, split, index, home, habit, size).

Splits follow ALFWorld's own: `train`; `valid_seen`, train's task combinations with new placements;
`valid_unseen`, the four held-out scenes only. `abstract_game` is pure and instant (demonstrations
need no more); `make_game` writes the files and plays the game's solution on the engine, which is
what makes it a game.
"""

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sdar.environments.alfworld.world import full, pddl, small
from sdar.environments.alfworld.world.abstract import Game
from sdar.environments.alfworld.world.home import Home
from sdar.environments.alfworld.world.solve import solve
from sdar.environments.base import Task
from sdar.errors import SdarError
from sdar.files.digest import file_digest, text_digest

SPLITS = ("train", "valid_seen", "valid_unseen")
ATTEMPTS = 20


def abstract_game(
    seed: int,
    split: str,
    index: int,
    home: Home,
    task_types: Sequence[str],
    train_games: int,
    attempt: int = 0,
) -> Game:
    """The game number `index` of a split.

    Task types take turns. `train_games` is the size of the train split: valid_seen's game `index`
    is set in the task combination of train's game `index % train_games`. `attempt` counts the
    games refused before it.
    """
    maker = small if home.size == "small" else full
    key = f"{seed}/{home.seed}/{home.habit}/{home.size}"
    source, number = split, index
    if split == "valid_seen":
        source, number = "train", index % train_games
    # Each round of types starts one later, so that "every second game" is not "every second type".
    round_ = number // len(task_types)
    task_type = task_types[(number + round_) % len(task_types)]
    rng = random.Random(f"combination/{key}/{source}/{number}")
    combination = small.pick_evenly(maker.combinations(task_type, home, source), rng)
    trial = f"trial_{_digest(f'{key}/{split}/{index}/{attempt}')}"
    return maker.furnish(combination, home, split, index, trial)


def _digest(text: str) -> str:
    """Sixteen hex digits that name a trial, and seed its placements."""
    return text_digest(text)[:16]


@dataclass(frozen=True)
class Request:
    """Everything one game is a function of, and the folder it is written under."""

    seed: int
    split: str
    index: int
    home: Home
    task_types: tuple[str, ...]
    train_games: int
    folder: Path


def make_game(request: Request) -> Task:
    """Make one game, have its solution win on the engine, and leave its files in the folder.

    A candidate that the engine does not grant is drawn anew. Returns the task with `location`
    relative to the folder. Raises SdarError when `ATTEMPTS` candidates in a row are refused.
    """
    refusals = []
    for attempt in range(ATTEMPTS):
        game = abstract_game(
            request.seed,
            request.split,
            request.index,
            request.home,
            request.task_types,
            request.train_games,
            attempt,
        )
        try:
            walkthrough = solve(game)
        except SdarError as error:
            refusals.append(str(error))
            continue
        path = pddl.write_game(game, walkthrough, request.folder)
        location = path.relative_to(request.folder).as_posix()
        task = Task(game.id, game.split, game.task_type, game.sentence, location)
        refusal = _refused(task, str(path), walkthrough)
        if refusal is None:
            return replace(task, content=file_digest(path)[:16])
        refusals.append(refusal)
        shutil.rmtree(path.parent)
    raise SdarError(
        f"no winnable game for {request.split} {request.index} in {ATTEMPTS} attempts "
        f"(last: {refusals[-1]}): choose another environment.seed or environment.home"
    )


def _refused(task: Task, path: str, walkthrough: list[str]) -> str | None:
    """Why the engine does not accept the walkthrough; None when it wins at its last action."""
    # Imported late: textworld is needed to accept games, not to imagine them.
    from sdar.environments.alfworld.engine.environment import AlfworldEnvironment, GameCache

    environment = AlfworldEnvironment(GameCache(limit=1))
    try:
        seen = environment.reset(replace(task, location=path))
        for number, action in enumerate(walkthrough):
            if seen.won or action not in seen.admissible_actions:
                state = "already won" if seen.won else "not admissible"
                return f"{task.id}: action {number} '{action}' is {state}"
            seen = environment.step(action)
        return None if seen.won else f"{task.id}: not won after {len(walkthrough)} actions"
    finally:
        environment.close()
