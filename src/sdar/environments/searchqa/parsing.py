"""From a response to a search or an answer, by the reference's rules."""

import re

from sdar.environments.parsing import ParsedAction

_BLOCKS = {
    kind: re.compile(f"<{kind}>(.*?)</{kind}>", re.DOTALL | re.IGNORECASE)
    for kind in ("search", "answer")
}
_OPENING_TAG = re.compile(r"<(?:search|answer)>", re.IGNORECASE)


def parse_action(response: str) -> ParsedAction:
    """The first `<search>` block, else the first `<answer>` block, up to the first closing tag.

    It is written back as `<search>query</search>` with the inside stripped and its case kept; ""
    without any. Valid needs a block and exactly one opening tag of either kind.
    """
    text = response
    # The model sometimes goes on as if it were the environment: nothing behind the first closing
    # tag counts.
    for closing in ("</search>", "</answer>"):
        before, tag, _ = response.partition(closing)
        if tag:
            text = before + closing
            break
    for kind, block in _BLOCKS.items():
        match = block.search(text)
        if match:
            valid = len(_OPENING_TAG.findall(response)) == 1
            return ParsedAction(f"<{kind}>{match.group(1).strip()}</{kind}>", valid)
    return ParsedAction("", False)
