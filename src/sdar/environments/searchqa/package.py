"""Search-QA as the rest of the code sees it."""

import re
from pathlib import Path
from typing import Any

from sdar.environments.base import (
    EnvironmentPackage,
    EnvironmentPool,
    MakeExpert,
)
from sdar.environments.searchqa import prompt
from sdar.environments.searchqa.engine import environment as engine
from sdar.environments.searchqa.evidence_expert import EvidenceExpert
from sdar.environments.searchqa.expert import ArchiveExpert
from sdar.environments.searchqa.parsing import parse_action
from sdar.environments.searchqa.practice import mistake, practice
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

    make_tasks = staticmethod(make_tasks)
    knowledge = staticmethod(read_archive)
    build_messages = staticmethod(prompt.build_messages)
    parse = staticmethod(parse_action)
    is_admissible = staticmethod(engine.is_admissible)
    expert = staticmethod(ArchiveExpert)
    names = staticmethod(small_names)
    practice = staticmethod(practice)
    mistake = staticmethod(mistake)

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

    def experts(self, environment: Any, folder: Path) -> MakeExpert:
        targets = {question.id: question.targets for question in stored_questions(folder)}
        return lambda task, first, seed: EvidenceExpert(task, first, targets[task.id])

    def response(self, thought: str, action: str) -> str:
        """With a space after the opening tag: a word is then the token it is in a passage, and
        `parse` strips it."""
        spaced = _OPENING.sub(r"<\1> ", action)
        return f"<think>{thought}</think>{spaced}"


PACKAGE: EnvironmentPackage = SearchqaPackage()
