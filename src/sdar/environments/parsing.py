"""From a model's response to an action, and whether the response keeps the form (METHOD 5).

The rules are those of the reference's three environments; validity never looks at what is
admissible, and an invalid response still yields an action (the environment answers that nothing
happens). Invalid responses cost the invalid-action penalty.
"""

import re
from typing import Literal, NamedTuple

EnvironmentName = Literal["alfworld", "webshop", "search"]

_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_SEARCH_BLOCKS = {
    kind: re.compile(f"<{kind}>(.*?)</{kind}>", re.DOTALL | re.IGNORECASE)
    for kind in ("search", "answer")
}
_SEARCH_TAG = re.compile(r"<(?:search|answer)>", re.IGNORECASE)
FALLBACK_CHARACTERS = {"alfworld": 30, "webshop": 20}
"""Without an action block the tail of the response stands for the action."""


class ParsedAction(NamedTuple):
    action: str
    valid: bool


def parse_action(response: str, environment: EnvironmentName) -> ParsedAction:
    """The action in `response` and whether the response has the required form.

    alfworld, webshop: the text of the first `<action>` block, lower-cased and stripped; without a
    block the last 30 (webshop 20) characters of the lower-cased response. Valid needs the block,
    a `<think>` and a `</think>` in exactly this case, and no Chinese characters.

    search: the first `<search>` block, else the first `<answer>` block, up to the first closing
    tag; written back as `<search>query</search>` with the inside stripped and its case kept; ""
    without any. Valid needs a block and exactly one opening tag of either kind.
    """
    if environment == "search":
        return _parse_search(response)
    return _parse_action_block(response, FALLBACK_CHARACTERS[environment])


def _parse_action_block(response: str, tail: int) -> ParsedAction:
    text = response.lower()
    start = text.find("<action>")
    end = text.find("</action>")
    if start == -1 or end == -1:
        return ParsedAction(text[-tail:], False)
    action = text[start + len("<action>") : end].strip()
    thought = "<think>" in response and "</think>" in response
    return ParsedAction(action, thought and _CHINESE.search(response) is None)


def _parse_search(response: str) -> ParsedAction:
    text = response
    # The model sometimes goes on as if it were the environment: nothing behind the first closing
    # tag counts.
    for closing in ("</search>", "</answer>"):
        before, found, _ = response.partition(closing)
        if found:
            text = before + closing
            break
    for kind, block in _SEARCH_BLOCKS.items():
        match = block.search(text)
        if match:
            valid = len(_SEARCH_TAG.findall(response)) == 1
            return ParsedAction(f"<{kind}>{match.group(1).strip()}</{kind}>", valid)
    return ParsedAction("", False)
