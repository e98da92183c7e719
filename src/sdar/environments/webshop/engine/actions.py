"""Actions as the shop reads them: `search[words]`, `click[button]`."""

from typing import NamedTuple


class Action(NamedTuple):
    """`argument` is lower-case; None where the text has not the form name[argument]."""

    name: str
    argument: str | None


def read_action(text: str) -> Action:
    """The name and argument in `text`: the pattern `(.+)\\[(.+)\\]` from the start, greedy.

    Only the first line counts, what follows its last `]` is ignored, and of nested brackets the
    innermost opening one begins the argument. Found without that pattern, whose time grows with
    the square of the number of brackets.
    """
    line = text.partition("\n")[0]
    closing = line.rfind("]")
    opening = line.rfind("[", 1, max(closing - 1, 0))
    if opening < 1:
        return Action(text, None)
    return Action(line[:opening], line[opening + 1 : closing].lower())
