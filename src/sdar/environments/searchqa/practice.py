"""Practice episodes for the warm start: many archives, each with words of its own.

The archives of the small world hold imagined facts, so that nothing is learned by heart; those of
training and evaluation hold the real ones.
"""

import random
import re
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any

from sdar.environments.base import FIRST_OPENING, Observation, Task
from sdar.environments.searchqa.engine.data import Question
from sdar.environments.searchqa.engine.environment import QuestionEpisode
from sdar.environments.searchqa.expert import UNKNOWN, ArchiveExpert
from sdar.environments.searchqa.retrieval.memory import MemoryRetriever
from sdar.environments.searchqa.world.archive import (
    FILED_UNDER,
    Archive,
    Entry,
    Size,
    entries,
    imagined_entries,
)
from sdar.environments.searchqa.world.facts import Fact
from sdar.environments.searchqa.world.passages import make_passages
from sdar.environments.searchqa.world.questions import Asked, candidates, split_entries

# Archives of demonstrations are numbered from here, far from any archive one would train in.
FIRST_ARCHIVE = 1_000_000
ASKED_ABOUT = 6
"""Countries of a small archive that an episode's question is drawn from."""

Candidate = tuple[Asked, Fact]


class QuestionPractice:
    """One generated question with the expert beside it. See `base.Practice`."""

    stuck = False

    def __init__(
        self, index: int, asked: Asked, answer: Fact, archive: Archive, settings: Any, hinted: bool
    ) -> None:
        """`settings`: the environment's section of the configuration."""
        name = f"practice/{index}"
        self.task = Task(name, "practice", asked.task_type, asked.text, name)
        self.hinted = hinted
        self.knowledge = archive
        self._top_k = settings.retriever.top_k
        question = Question(name, asked.text, answer.targets, asked.data_source)
        self._episode = QuestionEpisode(question, settings.max_turns)
        self.observation = self._episode.observe("")
        self._expert = ArchiveExpert(
            self.task, self.observation, archive if hinted else None, index
        )

    def expert_turn(self) -> tuple[str, str]:
        return self._expert.act()

    def mistake(self, draw: random.Random) -> str:
        """A search for something else, where one is left."""
        if len(self.observation.admissible_actions) < 2:
            return f"<answer>{UNKNOWN}</answer>"
        archive = self.knowledge
        told = archive_entries(archive)
        kind = draw.choice(sorted(archive.words))
        word = draw.choice(FILED_UNDER[kind]) if archive.size == "small" else archive.words[kind]
        return f"<search>{word} {draw.choice(told).name}</search>"

    def step(self, action: str) -> Observation:
        begun = self._episode.begin(action)
        if isinstance(begun, str):
            retriever = archive_retriever(self.knowledge.seed, self.knowledge.size)
            begun = self._episode.finish(retriever.search([begun], self._top_k)[0])
        self.observation = begun
        self._expert.observe(action, begun)
        return begun


def mistake(task: Task, observation: Observation, draw: random.Random) -> str:
    """For a real question: a search for some of its words, where one is left."""
    if len(observation.admissible_actions) < 2:
        return f"<answer>{UNKNOWN}</answer>"
    asked = re.sub(r"[<>]", " ", task.instruction).split()
    return f"<search>{' '.join(draw.sample(asked, min(2, len(asked))))}</search>"


def practice(config: Any, index: int, *, opening: bool = False) -> QuestionPractice:
    """Question number `index`: a function of the configuration and the number.

    Episodes share `warm_start.demonstrations.worlds` archives; each opening has one of its own.
    """
    demonstrations, environment = config.warm_start.demonstrations, config.environment
    index = FIRST_OPENING + index if opening else index
    seed = FIRST_ARCHIVE + (index if opening else index % demonstrations.worlds)
    archive = Archive.draw(seed, environment.size)
    draw = random.Random(f"practice/{demonstrations.seed}/{index}")
    task_type = draw.choice(environment.question_types)
    if archive.size == "full":
        kinds = full_questions(task_type, environment.seed)
    else:
        some = draw.sample(archive_entries(archive), ASKED_ABOUT)
        kinds = _by_kind(candidates(task_type, "small", some))
    asked, answer = draw.choice(draw.choice(kinds))
    # Drawn, not alternated: neither a type nor an archive may go with the hint.
    hinted = opening or draw.random() < demonstrations.hinted
    return QuestionPractice(index, asked, answer, archive, environment, hinted)


@cache
def full_questions(task_type: str, seed: int) -> list[list[Candidate]]:
    """The full world's questions of a type, by kind: those that training may ask."""
    return _by_kind(candidates(task_type, "full", split_entries(entries("full"), seed)["train"]))


def _by_kind(asked: Iterable[Candidate]) -> list[list[Candidate]]:
    kinds: dict[str, list[Candidate]] = {}
    for candidate in asked:
        kinds.setdefault(candidate[0].data_source, []).append(candidate)
    return [kinds[kind] for kind in sorted(kinds)]


def archive_entries(archive: Archive) -> tuple[Entry, ...]:
    """The facts of a practice archive."""
    return entries("full") if archive.size == "full" else imagined_entries(archive.seed)


def archive_retriever(seed: int, size: Size) -> MemoryRetriever:
    """A practice archive's passages; the full world has the same in every one."""
    return _full_retriever() if size == "full" else _small_retriever(seed)


@lru_cache(maxsize=256)
def _small_retriever(seed: int) -> MemoryRetriever:
    return MemoryRetriever(make_passages(Archive.draw(seed), imagined_entries(seed)))


@cache
def _full_retriever() -> MemoryRetriever:
    return MemoryRetriever(make_passages(Archive.draw(0, "full"), entries("full")))
