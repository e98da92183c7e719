"""Configuration of the TextWorldExpress environment."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from sdar.environments.chat import PromptLayout
from sdar.environments.section import EnvironmentSection
from sdar.files.paths import GivenPath
from sdar.section import NOTHING, NonNegative, Section

ExpressGame = Literal[
    "cookingworld", "twc", "coin", "mapreader", "arithmetic", "sorting", "simonsays", "peckingorder"
]


class SeedCounts(Section):
    """How many seeds of each game a split has."""

    train: Annotated[int, Field(ge=1, le=800)] = 100
    dev: Annotated[int, Field(ge=1, le=1000)] = 40
    test: Annotated[int, Field(ge=1, le=1000)] = 40


class TextworldExpressConfig(EnvironmentSection):
    """Eight text games on the TextWorldExpress engine (needs a Java runtime)."""

    usual_panels: ClassVar = ("dev", "test")
    distributions: ClassVar = ("textworld-express",)
    extras: ClassVar = {"express": ("textworld_express", "py4j")}

    name: Literal["textworld_express"] = "textworld_express"
    games: Annotated[tuple[ExpressGame, ...], Field(min_length=1)] = ("coin", "simonsays")
    parameters: dict[ExpressGame, str] = Field(default_factory=dict)
    """The engine's own parameter string of a game, such as {coin: "numLocations=3"}."""
    seeds: SeedCounts = SeedCounts()
    max_turns: PositiveInt = 15
    history: Annotated[int, Field(ge=0)] = 2
    prompt_layout: PromptLayout = "paper"
    """Order of the prompt's fields. `paper`: the paper's. `prefix`: fixed words first, what is of
    one turn alone last, so that prompts begin alike, and beginnings that are alike can be computed
    once. Whatever makes or reads a prompt follows it; its results are another experiment's."""
    success_reward: PositiveFloat = 10.0
    invalid_action_penalty: NonNegative = 0.1
    workers: Annotated[int, Field(ge=0), NOTHING] = 0
    worker_timeout: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False), NOTHING] = 300.0
    """Seconds that the Java process may take to answer before the run ends with an error."""
    data: GivenPath | None = None
    """Nothing to give: the engine makes its games from seeds."""

    @property
    def plays_data(self) -> bool:
        """There is no data to play."""
        return False

    @property
    def task_types(self) -> tuple[str, ...]:
        """What skills are looked up by."""
        return self.games

    def modules(self) -> tuple[str, ...]:
        """The engine, and what talks to its Java process."""
        return self.extras["express"]

    def unread(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """There is no data to give."""
        yield "the engine makes its games from seeds", ("data",)


SECTION = TextworldExpressConfig
