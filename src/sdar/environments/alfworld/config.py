"""Configuration of the ALFWorld environment."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, PositiveFloat, PositiveInt

from sdar.environments.chat import PromptLayout
from sdar.environments.section import EnvironmentSection
from sdar.files.paths import GivenPath
from sdar.section import NOTHING, Fraction, NonNegative, Section

AlfworldTaskType = Literal[
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
]
ALFWORLD_TASK_TYPES: tuple[AlfworldTaskType, ...] = get_args(AlfworldTaskType)
GAMES_FOLDER = "json_2.1.1"
"""Folder of the games within real data."""


class GameCounts(Section):
    """How many games to generate for each split."""

    train: PositiveInt = 300
    valid_seen: PositiveInt = 140
    valid_unseen: PositiveInt = 134


class AlfworldConfig(EnvironmentSection):
    """The ALFWorld text environment on the TextWorld engine."""

    usual_panels: ClassVar = ("valid_seen", "valid_unseen")
    type_labels: ClassVar = {
        "pick_and_place_simple": "pick & place",
        "look_at_obj_in_light": "look in light",
        "pick_clean_then_place_in_recep": "clean & place",
        "pick_heat_then_place_in_recep": "heat & place",
        "pick_cool_then_place_in_recep": "cool & place",
        "pick_two_obj_and_place": "pick two & place",
    }
    distributions: ClassVar = ("textworld", "alfworld")
    extras: ClassVar = {"alfworld": ("textworld", "alfworld")}
    generated: ClassVar = ("size", "games", "seed", "home", "habit")
    exported_data: ClassVar = ("ALFWORLD_DATA", GAMES_FOLDER)

    name: Literal["alfworld"] = "alfworld"
    data: GivenPath | None = None
    """A real `$ALFWORLD_DATA` folder (it contains `json_2.1.1/`). null: generate games."""
    size: Literal["small", "full"] = "small"
    """Generated games: `small` (few receptacles, short prompts) or `full` (like real ALFWorld)."""
    games: GameCounts = GameCounts()
    task_types: tuple[AlfworldTaskType, ...] = ALFWORLD_TASK_TYPES
    seed: int = 0
    """Seed of the generated games."""
    home: int = 0
    """Which home the games are set in: its habits say where each object class is usually kept."""
    habit: Fraction = 0.85
    """Probability that an object is in its class's usual place."""
    max_turns: PositiveInt = 10
    history: Annotated[int, Field(ge=0)] = 2
    """Past (observation, action) pairs shown in the prompt."""
    prompt_layout: PromptLayout = "paper"
    """Order of the prompt's fields. `paper`: the paper's. `prefix`: fixed words first, what is of
    one turn alone last, so that prompts begin alike, and beginnings that are alike can be computed
    once. Whatever makes or reads a prompt follows it; its results are another experiment's."""
    success_reward: PositiveFloat = 10.0
    invalid_action_penalty: NonNegative = 0.1
    workers: Annotated[int, Field(ge=0), NOTHING] = 1
    """Processes that play games; 0 plays them in the trainer's own process."""
    worker_timeout: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False), NOTHING] = 300.0
    """Seconds that a worker may say nothing (it speaks at least once per game) before another takes
    its place and plays its episodes again, with the same result. After three in a row the run ends
    with an error that names the worker. `sdar tasks` makes games with the same limit."""

    @property
    def known_panels(self) -> tuple[str, ...]:
        """What evaluation.panels may name; with real data also any other split in `data`."""
        return self.usual_panels if self.data is None else ()

    def modules(self) -> tuple[str, ...]:
        """Those of the engine."""
        return self.extras["alfworld"]

    def data_paths(self, splits: Sequence[str]) -> dict[str, list[Path]]:
        """The folders of these splits."""
        if self.data is None:
            return {}
        return {"data": [self.data / GAMES_FOLDER / split for split in dict.fromkeys(splits)]}

    def check_data(self, panels: Sequence[str]) -> list[str]:
        """An `$ALFWORLD_DATA` folder with every split that will be played."""
        if self.data is None:
            return []
        games = self.data / GAMES_FOLDER
        remedy = (
            f"download the games with `ALFWORLD_DATA={self.data} alfworld-download`, set "
            f"environment.data to the folder that holds {GAMES_FOLDER}/, or to null to generate "
            "games"
        )
        if not games.is_dir():
            return [f"environment.data: expected a folder {games}, which does not exist; {remedy}"]
        missing = [s for s in dict.fromkeys(("train", *panels)) if not (games / s).is_dir()]
        if missing:
            return [f"environment.data: {games} lacks the split(s) {', '.join(missing)}; {remedy}"]
        return []


SECTION = AlfworldConfig
