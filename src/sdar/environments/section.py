"""What the rest of the code reads of an environment's section of the configuration."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sdar.environments.chat import PromptLayout
from sdar.extras import Extras
from sdar.section import Section


class EnvironmentSection(Section):
    """Base of every environment's section; `environments/<name>/config.py` offers it as `SECTION`.

    It declares no keys itself, so that each section lists its own in the order people read them.
    """

    usual_panels: ClassVar[tuple[str, ...]]
    """Panels to evaluate where a file names none."""
    type_labels: ClassVar[Mapping[str, str]] = {}
    """Task types in a few words, in the order of tables. Types without a label follow by name."""
    distributions: ClassVar[tuple[str, ...]] = ()
    """Python packages whose versions provenance records, beside those of everything else."""
    extras: ClassVar[Extras] = {}
    """The extras of sdar that this environment has, each with the modules that are imported."""
    generated: ClassVar[tuple[str, ...]] = ()
    """Keys that only generated tasks read."""
    tasks_hold_data: ClassVar[bool] = False
    """The tasks' folder has all of `data` that episodes are played from."""
    exported_data: ClassVar[tuple[str, str] | None] = None
    """Where people's real data may be: an environment variable, and the folder in its folder."""

    if TYPE_CHECKING:
        name: str
        data: Path | None
        max_turns: int
        history: int
        prompt_layout: PromptLayout
        success_reward: float
        invalid_action_penalty: float
        workers: int

        @property
        def task_types(self) -> tuple[str, ...]:
            """What skills are looked up by."""

    @property
    def plays_data(self) -> bool:
        """The tasks are those of `data`."""
        return self.data is not None

    @property
    def known_panels(self) -> tuple[str, ...]:
        """What evaluation.panels may name; empty where the data decide."""
        return self.usual_panels

    def unread(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Why keys are not read beside the others, and those keys or their sections."""
        if self.data is not None and self.generated:
            yield "environment.data is given, so nothing is generated", self.generated

    def modules(self) -> tuple[str, ...]:
        """Modules of an extra without which nothing can be played."""
        return ()

    def data_paths(self, splits: Sequence[str]) -> dict[str, list[Path]]:
        """The files and folders that keys of this section name and these splits are read from, by
        key. Their content decides results as the keys do."""
        return {} if self.data is None else {"data": [self.data]}

    def check_data(self, panels: Sequence[str]) -> list[str]:
        """What `data` lacks that evaluating `panels` needs, each problem with its key and remedy.

        Looks at files for less than a second, without torch.
        """
        if self.data is None or self.data.exists():
            return []
        return [
            f"environment.data: {self.data} does not exist; correct it, or set it to null for "
            "generated tasks"
        ]
