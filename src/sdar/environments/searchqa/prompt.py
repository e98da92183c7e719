"""The Search-QA prompt: one user message per turn, with the searches so far as a window inside it.

Its fields: question, window of (search, information) pairs, and what may be done now. The
skill, where there is one, has the role `system`. In the layout `prefix` what may be done comes
first; only that no search is left, which is of the last turn, stands at the end.
"""

from sdar.environments.base import Moment
from sdar.environments.chat import Message, chat
from sdar.environments.searchqa.engine.environment import information_text, split_action

MAY_SEARCH = (
    "First reason inside <think></think>, then either search with <search>query</search> or, "
    "once you know it, give the answer alone with <answer>answer</answer>."
)
MUST_ANSWER = (
    "No search is left. First reason inside <think></think>, then give the answer alone with "
    "<answer>answer</answer>."
)


def build_messages(moment: Moment, skill: str | None = None) -> list[Message]:
    """The chat of one turn.

    The instruction is the question. Each entry of the history holds what was seen *before* its
    action, so that what a search found is the next entry's observation, and the moment's is what
    the last one found. Whether a search is left is read off the admissible actions.
    """
    ahead = moment.layout == "prefix"
    lines = [MAY_SEARCH] if ahead else []
    lines.append(f"Question: {moment.task.instruction}")
    results = [past.observation for past in moment.history[1:]] + [moment.observation]
    for past, seen in zip(moment.history, results, strict=False):
        kind, inside = split_action(past.action)
        lines.append(f"You searched: {inside}" if kind == "search" else "You did not search.")
        lines.append(f"Found: {information_text(seen)}")
    if not moment.history and moment.observation:
        # The window holds no search any more, but what the last one found is still there.
        lines.append(f"Found: {information_text(moment.observation)}")
    searchable = any(split_action(action)[0] == "search" for action in moment.admissible_actions)
    if not searchable:
        lines.append(MUST_ANSWER)
    elif not ahead:
        lines.append(MAY_SEARCH)
    return chat("\n".join(lines), skill)
