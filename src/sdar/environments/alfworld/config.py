"""Configuration of the ALFWorld environment."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from sdar.section import Fraction, NonNegative, Section

AlfworldTaskType = Literal[
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
]
ALFWORLD_TASK_TYPES: tuple[AlfworldTaskType, ...] = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)


class GameCounts(Section):
    """How many games to generate for each split."""

    train: PositiveInt = 300
    valid_seen: PositiveInt = 140
    valid_unseen: PositiveInt = 134


class AlfworldConfig(Section):
    """The ALFWorld text environment on the TextWorld engine."""

    name: Literal["alfworld"] = "alfworld"
    data: Path | None = None
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
    success_reward: PositiveFloat = 10.0
    invalid_action_penalty: NonNegative = 0.1
    workers: Annotated[int, Field(ge=0)] = 1
    """Processes that play games; 0 plays them in the trainer's own process."""

    @property
    def known_panels(self) -> tuple[str, ...]:
        """What evaluation.panels may name; with real data also any other split in `data`."""
        return ("valid_seen", "valid_unseen") if self.data is None else ()
