"""From a model's response to an action, and whether the response keeps the form.

Validity never looks at what is admissible, and an invalid response still yields an action (the
environment answers that nothing happens). Invalid responses cost the invalid-action penalty.
Environments with another form than an action block have a `parsing.py` of their own.
"""

import re
from typing import NamedTuple

_CHINESE = re.compile(r"[\u4e00-\u9fff]")


class ParsedAction(NamedTuple):
    action: str
    valid: bool


def parse_action_block(response: str, tail: int) -> ParsedAction:
    """The text of the first `<action>` block, lower-cased and stripped; without a block the last
    `tail` characters of the lower-cased response. Valid needs the block, a `<think>` and a
    `</think>` in exactly this case, and no Chinese characters: the reference's rules.
    """
    text = response.lower()
    start = text.find("<action>")
    end = text.find("</action>")
    if start == -1 or end == -1:
        return ParsedAction(text[-tail:], False)
    action = text[start + len("<action>") : end].strip()
    thought = "<think>" in response and "</think>" in response
    return ParsedAction(action, thought and _CHINESE.search(response) is None)
