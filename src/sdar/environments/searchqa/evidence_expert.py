"""The expert for real questions: it searches, and answers what a passage says.

It knows the accepted answers, and gives one only where it has been found. Its searches are what
anybody could make of the episode: the question's own words, then each title that a search has
brought up with the words that are left.
"""

import re
from collections.abc import Sequence

from sdar.environments.base import Observation, Task
from sdar.environments.searchqa.engine.environment import information_text, split_action
from sdar.environments.searchqa.engine.scoring import normalize_answer
from sdar.environments.searchqa.retrieval.bm25 import STOP_WORDS, words

UNKNOWN = "unknown"
NO_EVIDENCE = ("", "yes", "no")
"""Accepted answers (normalised) that stand in passages by chance."""
_AUXILIARIES = frozenset(["did", "do", "does", "could", "would", "should", "can", "been", "being"])
_DOCUMENT = re.compile(r"^Doc \d+: ", re.MULTILINE)
_QUOTED = 120
"""Characters of a passage around the answer, in a thought."""


class EvidenceExpert:
    """See `base.TaskExpert`. `targets` are the accepted answers."""

    def __init__(self, task: Task, first: Observation, targets: Sequence[str]) -> None:
        self._asked = _key_words(task.instruction)
        self._targets = targets
        self._passages: list[str] = []
        self._searched: set[str] = set()
        self._look_at(first)

    @property
    def stuck(self) -> bool:
        """No passage says the answer, and nothing may be searched for any more."""
        return not self._searchable and self._evidence() is None

    def observe(self, action: str, observation: Observation) -> None:
        kind, inside = split_action(action)
        if kind == "search":
            self._searched.add(_same(inside))
            found = _DOCUMENT.split(information_text(observation.text))[1:]
            self._passages += [text.strip() for text in found]
        self._look_at(observation)

    def act(self) -> tuple[str, str]:
        evidence = self._evidence()
        if evidence is not None:
            answer, passage = evidence
            return f"{_title(passage)} says: {_around(answer, passage)}", _answer(answer)
        if not self._searchable:
            return "no passage says it", _answer(UNKNOWN)
        queries = [self._asked, *(self._about(_title(passage)) for passage in self._passages)]
        query = next((q for q in queries if _same(q) not in self._searched), self._asked)
        if not self._passages:
            return f"nothing is found yet; search for {query}", _search(query)
        return f"no passage says it; search for {query}", _search(query)

    def _look_at(self, observation: Observation) -> None:
        offered = observation.admissible_actions
        self._searchable = any(split_action(action)[0] == "search" for action in offered)

    def _evidence(self) -> tuple[str, str] | None:
        """The first answer that a passage says, in its spelling, and that passage."""
        for passage in self._passages:
            for target in self._targets:
                said = stated(target, passage)
                if said is not None:
                    return said, passage
        return None

    def _about(self, title: str) -> str:
        """A search for what was asked, about something that was found."""
        named = set(words(title))
        return " ".join([title, *(w for w in self._asked.split() if not named & set(words(w)))])


def stated(target: str, passage: str) -> str | None:
    """The answer as the passage writes it; None where it does not."""
    normal = normalize_answer(target)
    if normal in NO_EVIDENCE or len(normal) < 2:
        return None
    found = re.search(rf"(?<!\w){re.escape(target.strip())}(?!\w)", passage, re.IGNORECASE)
    if found and not set("<>\n") & set(found[0]):
        return found[0]
    return target.strip() if f" {normal} " in f" {normalize_answer(passage)} " else None


def _key_words(question: str) -> str:
    """The question without the words that say nothing of what is asked about; all of it where
    nothing else is left."""
    text = _plain(question)
    left = [word.strip('?!.,;:"') for word in text.split() if not _empty(word)]
    return " ".join(left) if left else text


def _empty(word: str) -> bool:
    return all(part in STOP_WORDS or part in _AUXILIARIES for part in words(word))


def _same(query: str) -> str:
    return " ".join(words(query))


def _title(passage: str) -> str:
    return _plain(passage.partition("\n")[0]).strip('"').strip()


def _around(answer: str, passage: str) -> str:
    """The answer with what stands around it, in whole words."""
    text = _plain(passage.partition("\n")[2]) or _title(passage)
    place = text.lower().find(answer.lower())
    start = max(0, place - _QUOTED // 2)
    shown = text[start : start + _QUOTED + len(answer)]
    if start:
        shown = shown.partition(" ")[2] or shown
    return shown.rpartition(" ")[0] or shown


def _plain(text: str) -> str:
    """In one line, without what could be a tag, or the end of one."""
    return " ".join(re.sub(r"[<>]", " ", text).split())


def _search(query: str) -> str:
    return f"<search>{query}</search>"


def _answer(answer: str) -> str:
    return f"<answer>{answer}</answer>"
