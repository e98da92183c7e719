"""One episode of Search-QA: searches, then an answer (the Search-R1 protocol).

An action is what `parsing.parse_action` gives: `<search>q</search>`,
`<answer>a</answer>`, or "" where the response had neither. The episode ends with an answer or at
the turn limit; the last permitted turn searches nothing, since nobody would read the result.
`SearchqaPool` plays many episodes and asks the retriever once per turn for all of them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from sdar.environments.base import Observation, Task
from sdar.environments.pools import SentActions, in_thread
from sdar.environments.searchqa.engine.data import Question
from sdar.environments.searchqa.engine.scoring import is_right, last_answer
from sdar.environments.searchqa.retrieval.base import Passage, Retriever, clean_query
from sdar.errors import SdarError

SEARCH_ACTION = "<search>query</search>"
ANSWER_ACTION = "<answer>answer</answer>"
NO_QUERY = "No search was made: the query is empty."
NO_ACTION = f"Nothing was done: give one {SEARCH_ACTION} or one {ANSWER_ACTION}."
NOTHING_FOUND = "No passage was found."

_ACTION = re.compile(r"<(search|answer)>(.*)</\1>", re.DOTALL)
_INFORMATION = re.compile(r"<information>(.*)</information>", re.DOTALL)


def split_action(action: str) -> tuple[str, str]:
    """("search" or "answer", what is inside), or ("", "") for what is neither."""
    match = _ACTION.fullmatch(action.strip())
    return (match[1], match[2].strip()) if match else ("", "")


def is_admissible(action: str, admissible_actions: Sequence[str]) -> bool:
    """The action is of a kind that is offered and not empty inside, whatever it says."""
    kind, inside = split_action(action)
    return bool(inside) and kind in {split_action(offered)[0] for offered in admissible_actions}


def information(result: str) -> str:
    """What a search says, in the form of the protocol."""
    # Letters beyond ASCII stay as they are: an escaped name could not be copied into an answer.
    return f"<information>{json.dumps({'result': result}, ensure_ascii=False)}</information>"


def information_text(observation: str) -> str:
    """The text inside an observation; what is no `<information>` block comes back unchanged."""
    match = _INFORMATION.fullmatch(observation.strip())
    if match is None:
        return observation
    try:
        return str(json.loads(match[1])["result"]).strip()
    except (ValueError, KeyError, TypeError):
        return match[1].strip()


def describe(passages: Sequence[Passage]) -> str:
    """`Doc 1: ...` and so on, a line break after each."""
    if not passages:
        return NOTHING_FOUND
    return "".join(f"Doc {n}: {found.contents}\n" for n, found in enumerate(passages, 1))


Begun = str | Observation
"""A turn before its search: the query, or what is seen where there is nothing to search for."""
Found = dict[str, list[Passage]]
"""Passages by query."""


class QuestionEpisode:
    """The state of one episode, without its retriever: `begin` may ask for a search, and `finish`
    takes its result."""

    def __init__(self, question: Question, max_turns: int) -> None:
        self.question = question
        self._max_turns = max_turns
        self._turns = 0
        self._won = False
        self._done = False

    def begin(self, action: str) -> Begun:
        """One turn: the observation, or the query to search for before there is one."""
        if self._done:
            return self.observe("")
        self._turns += 1
        kind, inside = split_action(action)
        if kind == "answer":
            self._done = True
            answer = last_answer(f"<answer>{inside}</answer>") or ""
            self._won = is_right(answer, self.question.targets)
        elif self._turns >= self._max_turns:
            self._done = True
        elif kind == "search":
            query = clean_query(inside)
            return query if query else self.observe(information(NO_QUERY))
        else:
            return self.observe(information(NO_ACTION))
        return self.observe("")

    def finish(self, passages: Sequence[Passage]) -> Observation:
        """The observation after a search."""
        return self.observe(information(describe(passages)))

    def observe(self, text: str) -> Observation:
        searchable = self._turns + 1 < self._max_turns
        actions = (SEARCH_ACTION, ANSWER_ACTION) if searchable else (ANSWER_ACTION,)
        return Observation(
            text=text,
            admissible_actions=() if self._done else actions,
            won=self._won,
            done=self._done,
            score=float(self._won),
        )


class SearchqaPool:
    """Many episodes over one retriever: all searches of a turn are one call (see
    `base.EnvironmentPool`).

    `questions` by id; a task's id is its question's. `top_k` passages a search. `aside`: what is
    sent is searched for in threads, for a retriever that mostly waits (for a server); otherwise
    when the answers are asked for.
    """

    def __init__(
        self,
        retriever: Retriever,
        questions: Mapping[str, Question],
        max_turns: int = 4,
        top_k: int = 3,
        *,
        aside: bool = False,
    ) -> None:
        self._retriever = retriever
        self._questions = questions
        self._max_turns = max_turns
        self._top_k = top_k
        self._aside = aside
        self._episodes: dict[int, QuestionEpisode] = {}
        self._sent = SentActions()
        self._asked: dict[int, tuple[Begun, Future[Found]]] = {}

    def reset(self, tasks: dict[int, Task]) -> dict[int, Observation]:
        """The first observation is empty: the question is the task's instruction."""
        self._sent.drop(tasks)
        for slot, task in tasks.items():
            question = self._questions.get(task.id)
            if question is None:
                raise SdarError(
                    f"task {task.id} has no question among the {len(self._questions)} that were "
                    "read: make the tasks again with `sdar tasks`"
                )
            self._episodes[slot] = QuestionEpisode(question, self._max_turns)
        return {slot: self._episodes[slot].observe("") for slot in tasks}

    def step(self, actions: dict[int, str]) -> dict[int, Observation]:
        begun = self._begin(actions)
        results = self._search(begun)
        return {slot: self._finish(slot, seen, results) for slot, seen in begun.items()}

    def send(self, actions: dict[int, str]) -> None:
        self._sent.put(actions)
        if self._aside:
            begun = self._begin(actions)
            results = in_thread(lambda: self._search(begun))
            self._asked.update({slot: (seen, results) for slot, seen in begun.items()})

    def receive(self, slots: Sequence[int]) -> dict[int, Observation]:
        actions = self._sent.take(slots)
        if not self._aside:
            return self.step(actions)
        asked = {slot: self._asked.pop(slot) for slot in slots}
        return {slot: self._finish(slot, seen, f.result()) for slot, (seen, f) in asked.items()}

    def _begin(self, actions: Mapping[int, str]) -> dict[int, Begun]:
        return {slot: self._episodes[slot].begin(action) for slot, action in actions.items()}

    def _search(self, begun: Mapping[int, Begun]) -> Found:
        # The episodes of a group often ask the same thing.
        distinct = list(dict.fromkeys(seen for seen in begun.values() if isinstance(seen, str)))
        results = self._retriever.search(distinct, self._top_k) if distinct else []
        return dict(zip(distinct, results, strict=True))

    def _finish(self, slot: int, seen: Begun, results: Found) -> Observation:
        return self._episodes[slot].finish(results[seen]) if isinstance(seen, str) else seen

    def prefetch(self, tasks: list[Task]) -> None:
        """Nothing: questions are in memory."""

    def close(self) -> None:
        self._episodes.clear()
        self._retriever.close()
