"""The scripted expert: it knows what the searches have shown and, if told, how the archive files.

Its thoughts name what is needed and what was found of it, in the passages' own words, and look up
the word to search with in the words of the skill ("try capital: seat, peru"), so that a small
policy can copy where it has to. Without a hint it uses a word that a passage has given away, else
guesses one it has not tried.
"""

import random
from collections.abc import Mapping

from sdar.environments.base import Knowledge, Observation, Task
from sdar.environments.searchqa.engine.environment import information_text, split_action
from sdar.environments.searchqa.retrieval.bm25 import words
from sdar.environments.searchqa.world.archive import FILED_UNDER, Archive, label
from sdar.environments.searchqa.world.passages import Statement, read_results
from sdar.environments.searchqa.world.questions import FORWARD, parse_question

UNKNOWN = "unknown"


class ArchiveExpert:
    """See `base.Expert`. `seed` decides its guesses, with the task's id.

    Raises `SdarError` for questions that were not generated.
    """

    def __init__(
        self, task: Task, first: Observation, knowledge: Knowledge | None, seed: int = 0
    ) -> None:
        self._asked = parse_question(task.instruction)
        self._words: Mapping[str, str] = knowledge.words if isinstance(knowledge, Archive) else {}
        self._seed = f"{task.id}/{seed}"
        self._searchable = _searchable(first)
        self._found: list[Statement] = []
        self._tried: set[str] = set()

    def observe(self, action: str, observation: Observation) -> None:
        kind, inside = split_action(action)
        if kind == "search":
            self._tried.update(words(inside))
            self._found += read_results(information_text(observation.text))
        self._searchable = _searchable(observation)

    def act(self) -> tuple[str, str]:
        kind, subjects = self._asked.kind, self._asked.subjects
        needs: list[str] = []
        if self._asked.via is not None:
            subject, search = self._describe(self._asked.via, subjects[0], needs)
            if search is not None:
                return self._search(needs, *search)
            subjects = (subject,)
        statements = []
        for subject in subjects:
            statement = self._look(kind, subject)
            needs.append(self._need(kind, subject, statement))
            if statement is None:
                return self._search(needs, kind, subject)
            statements.append(statement)
        answer = statements[0].fact.value
        if len(statements) == 2:
            answer = subjects[0 if statements[0].fact.number > statements[1].fact.number else 1]
        return "; ".join(needs), f"<answer>{answer}</answer>"

    def _describe(self, via: str, key: str, needs: list[str]) -> tuple[str, tuple[str, str] | None]:
        """The country that is described, or what to search for to find it."""
        if via in FORWARD:
            statement = self._look(via, key)
            needs.append(self._need(via, key, statement))
            return ("", (via, key)) if statement is None else (statement.fact.value, None)
        same = (s for s in self._found if s.kind == via and key in s.fact.targets)
        statement = next(same, None)
        subject_text = "none" if statement is None else statement.subject
        needs.append(f"need country with {self._label(via)} {key}, {subject_text}")
        return ("", (via, key)) if statement is None else (statement.subject, None)

    def _look(self, kind: str, subject: str) -> Statement | None:
        return next((s for s in self._found if s.kind == kind and s.subject == subject), None)

    def _need(self, kind: str, subject: str, statement: Statement | None) -> str:
        value_text = "none" if statement is None else f"{statement.word} {statement.fact.value}"
        return f"need {self._label(kind)} of {subject}, {value_text}"

    def _search(self, needs: list[str], kind: str, about: str) -> tuple[str, str]:
        if not self._searchable:
            return "; ".join((*needs, "give up")), f"<answer>{UNKNOWN}</answer>"
        word = self._word(kind)
        thought = "; ".join((*needs, f"try {self._label(kind)}: {word}, {about}"))
        return thought, f"<search>{word} {about}</search>"

    def _word(self, kind: str) -> str:
        given_away = (s.word for s in self._found if s.kind == kind)
        known = self._words.get(kind) or next(given_away, None)
        if known is not None:
            return known
        if self._asked.size == "full":
            return self._label(kind)
        guesses = list(FILED_UNDER[kind])
        random.Random(f"guess/{self._seed}/{kind}").shuffle(guesses)
        return next((guess for guess in guesses if guess not in self._tried), guesses[0])

    def _label(self, kind: str) -> str:
        return label(kind, self._asked.size)


def _searchable(observation: Observation) -> bool:
    return any(split_action(a)[0] == "search" for a in observation.admissible_actions)
