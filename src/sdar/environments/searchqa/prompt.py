"""The Search-QA prompt: one user message a turn, with the searches so far as a window inside it.

Fields as in METHOD section 5: question, window of (search, information) pairs, and what may be
done now. The skill, where there is one, is the system message.
"""

from collections.abc import Sequence

from sdar.environments.base import PastTurn
from sdar.environments.searchqa.engine.environment import information_text, split_action

Message = dict[str, str]

MAY_SEARCH = (
    "First reason inside <think></think>, then either search with <search>query</search> or, "
    "once you know it, give the answer alone with <answer>answer</answer>."
)
MUST_ANSWER = (
    "No search is left. First reason inside <think></think>, then give the answer alone with "
    "<answer>answer</answer>."
)


def build_messages(
    instruction: str,
    history: Sequence[PastTurn],
    observation: str,
    admissible_actions: Sequence[str],
    turn: int,
    skill: str | None = None,
) -> list[Message]:
    """The chat of one turn.

    `instruction` is the question. `history` is the window, oldest first: each entry holds what was
    seen *before* its action, so that what a search found is the next entry's observation, and
    `observation` is what the last one found. Whether a search is left is read off
    `admissible_actions`.
    """
    lines = [f"Question: {instruction}"]
    found = [past.observation for past in history[1:]] + [observation]
    for past, seen in zip(history, found, strict=False):
        kind, inside = split_action(past.action)
        lines.append(f"You searched: {inside}" if kind == "search" else "You did not search.")
        lines.append(f"Found: {information_text(seen)}")
    if not history and observation:
        # The window holds no search any more, but what the last one found is still there.
        lines.append(f"Found: {information_text(observation)}")
    searchable = any(split_action(action)[0] == "search" for action in admissible_actions)
    lines.append(MAY_SEARCH if searchable else MUST_ANSWER)
    messages = [{"role": "user", "content": "\n".join(lines)}]
    if skill:
        messages.insert(0, {"role": "system", "content": skill})
    return messages
