"""`AlfworldEnvironment`: ALFWorld's text games one episode at a time.

Two engines with equal results: the fast one (`game`, `player`, `grammar`) for textworld 1.7.0,
and the stock stack for any other version and for the equality test. Both run fast-downward's own
library underneath.

Not thread-safe, because the engine's parser is not: use processes (`pool`).
"""

from pathlib import Path
from typing import Any, Protocol

from sdar.environments.alfworld.engine.caches import (
    BoundedCache,
    kept_interpreter_state,
    paused_collector,
)
from sdar.environments.alfworld.engine.game import LoadedGame, corrupt_game, load_game, read_game
from sdar.environments.alfworld.engine.player import GamePlayer
from sdar.environments.alfworld.engine.textworld_api import fast_engine_applies, stock_stack
from sdar.environments.base import Observation, Task
from sdar.errors import SdarError

GAME_CACHE_BYTES = 256 * 2**20
"""Games kept loaded in one process: about 1,200 small ones or 150 full-size ones."""


class GameCache:
    """Loaded games of one process by file, so that a second visit costs a reset only."""

    def __init__(self, limit: int = GAME_CACHE_BYTES) -> None:
        self._games: BoundedCache[LoadedGame] = BoundedCache(limit, lambda game: game.weight)

    def __len__(self) -> int:
        return len(self._games)

    def get(self, location: str) -> LoadedGame:
        """The game at `location`, loaded when it is new or its file has changed."""
        return self._games.get_or_make(self._key(location), lambda: load_game(location))

    def __contains__(self, location: str) -> bool:
        return self._key(location) in self._games

    @staticmethod
    def _key(location: str) -> tuple[str, int, int]:
        try:
            stat = Path(location).stat()
        except OSError as error:
            raise SdarError(
                f"game {location}: no such file; regenerate it with sdar tasks, or fetch it again"
            ) from error
        return location, stat.st_mtime_ns, stat.st_size


class Engine(Protocol):
    """What the environment needs of an engine."""

    admissible: list[str]
    won: bool

    def start(self, location: str) -> str: ...

    def step(self, command: str) -> str: ...

    def close(self) -> None: ...


class FastEngine(GamePlayer):
    """The player fed from a cache of games."""

    def __init__(self, games: GameCache) -> None:
        super().__init__()
        self._games = games

    def start(self, location: str) -> str:
        return self.reset(self._games.get(location))


class StockEngine:
    """ALFWorld's own stack of textworld environments, untouched."""

    def __init__(self) -> None:
        self._environment: Any = stock_stack()
        self._location: str | None = None
        self.admissible: list[str] = []
        self.won = False

    def start(self, location: str) -> str:
        read_game(location)
        try:
            with kept_interpreter_state():
                if location != self._location:
                    with paused_collector():
                        self._environment.load(location)
                    self._location = location
                state = self._environment.reset()
        except (Exception, SystemExit) as error:
            self._location = None
            raise corrupt_game(location, error) from error
        return self._take(state)

    def step(self, command: str) -> str:
        state, _, _ = self._environment.step(command)
        return self._take(state)

    def _take(self, state: Any) -> str:
        self.admissible = list(state["admissible_commands"])
        self.won = bool(state["won"])
        return str(state.feedback)

    def close(self) -> None:
        self._environment.close()


class AlfworldEnvironment:
    """Plays ALFWorld games; a `TextEnvironment`.

    `games` is shared by the environments of one process. `stock=True` plays on ALFWorld's own
    stack (same results, some hundred times slower).

    Raises SdarError when textworld or alfworld is not installed, and from `reset` when a game
    file is missing or corrupt.
    """

    def __init__(self, games: GameCache | None = None, stock: bool = False) -> None:
        self._engine: Engine
        if stock or not fast_engine_applies():
            self._engine = StockEngine()
        else:
            self._engine = FastEngine(games if games is not None else GameCache())

    def reset(self, task: Task) -> Observation:
        return self._observe(self._engine.start(task.location))

    def step(self, action: str) -> Observation:
        """Play `action`: it must equal an admissible one, outer blanks aside, to do anything."""
        return self._observe(self._engine.step(action))

    def close(self) -> None:
        self._engine.close()

    @property
    def raw_admissible(self) -> tuple[str, ...]:
        """The engine's own list, with `help`: what transcripts of the stock engine hold."""
        return tuple(self._engine.admissible)

    def _observe(self, text: str) -> Observation:
        shown = tuple(command for command in self._engine.admissible if command != "help")
        return Observation(text, shown, self._engine.won, self._engine.won)
