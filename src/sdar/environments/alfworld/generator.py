"""Generated ALFWorld games: which game belongs to (seed, split, index, home, habit, size).

Splits follow ALFWorld's own: `train`; `valid_seen`, train's task combinations with new placements;
`valid_unseen`, the four held-out scenes only. `abstract_game` is pure and instant (demonstrations
need no more); `accepted` plays the game's solution on the engine and is what makes it a game.
"""

import hashlib
import random
from collections.abc import Sequence

from sdar.environments.alfworld import full, small
from sdar.environments.alfworld.abstract import Game
from sdar.environments.alfworld.home import Home

SPLITS = ("train", "valid_seen", "valid_unseen")


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
    task_type = task_types[number % len(task_types)]
    rng = random.Random(f"combination/{key}/{source}/{number}")
    combination = maker.draw_combination(task_type, home, source, rng)
    trial = f"trial_{_digest(f'{key}/{split}/{index}/{attempt}')}"
    return maker.furnish(combination, home, split, index, trial)


def _digest(text: str) -> str:
    """Sixteen hex digits that name a trial, and seed its placements."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
