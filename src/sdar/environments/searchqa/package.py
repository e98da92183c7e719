"""Search-QA as the rest of the code sees it."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from sdar.environments.base import (
    EnvironmentPackage,
    EnvironmentPool,
    Knowledge,
    Observation,
    Task,
)
from sdar.environments.searchqa import prompt
from sdar.environments.searchqa.engine import environment as engine
from sdar.environments.searchqa.expert import ArchiveExpert
from sdar.environments.searchqa.parsing import parse_action
from sdar.environments.searchqa.practice import QuestionPractice, practice
from sdar.environments.searchqa.replay import FORMATS
from sdar.environments.searchqa.tasks import (
    ARCHIVE_FILE,
    make_tasks,
    read_archive,
    stored_questions,
)
from sdar.environments.searchqa.world.archive import small_names

_OPENING = re.compile(r"^<(search|answer)>")


class SearchqaPackage:
    """See `base.EnvironmentPackage`."""

    name = "searchqa"
    parsing_cases = "search"
    recorded = FORMATS
    world_file = ARCHIVE_FILE

    def make_tasks(
        self, environment: Any, panels: Sequence[str], folder: Path
    ) -> tuple[list[Task], str]:
        return make_tasks(environment, panels, folder)

    def knowledge(self, folder: Path) -> Knowledge | None:
        """How the archive files its facts; None for real questions."""
        return read_archive(folder)

    def open_pool(self, environment: Any, folder: Path) -> EnvironmentPool:
        from sdar.environments.searchqa.engine.data import by_id
        from sdar.environments.searchqa.retrieval import open_retriever

        return engine.SearchqaPool(
            open_retriever(environment.retriever, folder),
            by_id(stored_questions(folder)),
            environment.max_turns,
            environment.retriever.top_k,
            aside=environment.retriever.kind == "http",
        )

    build_messages = staticmethod(prompt.build_messages)
    parse = staticmethod(parse_action)

    def response(self, thought: str, action: str) -> str:
        """With a space after the opening tag: a word is then the token it is in a passage, and
        `parse` strips it."""
        spaced = _OPENING.sub(r"<\1> ", action)
        return f"<think>{thought}</think>{spaced}"

    def is_admissible(self, action: str, admissible_actions: Sequence[str]) -> bool:
        return engine.is_admissible(action, admissible_actions)

    def expert(self, task: Task, first: Observation, knowledge: Knowledge | None) -> ArchiveExpert:
        return ArchiveExpert(task, first, knowledge)

    def names(self) -> Collection[str]:
        """The small world's countries and values, and the words for their kinds."""
        return small_names()

    def practice(self, config: Any, index: int, *, opening: bool = False) -> QuestionPractice:
        return practice(config, index, opening=opening)


PACKAGE: EnvironmentPackage = SearchqaPackage()
