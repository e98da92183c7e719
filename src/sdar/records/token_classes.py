"""What each response token is: part of a thought, an action's verb, its object, or a tag. Pure.

Every character has a class, and a token that of most of its characters (of two equally frequent
ones, the one that comes first in it). Responses that break the form have classes too.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal, get_args

TokenClass = Literal["thought", "action verb", "object", "tag", "other"]
CLASSES: tuple[TokenClass, ...] = get_args(TokenClass)
ACTION_CLASSES: tuple[TokenClass, ...] = ("action verb", "object")
"""The tokens that say what is done."""

_TAG = re.compile(
    r"<(?P<closing>/?)(?P<name>think|action|search|answer)>"
    r"|<\|[^|<>\s]+\|>|</?s>|<(?:eos|bos|pad|unk|end_of_turn|start_of_turn)>",
    re.IGNORECASE,
)
# A verb of two words, a call (`search[`, `click[`), or the first word.
_VERB = re.compile(r"\s*(?:go to(?!\w)|\w+\[|\S+)", re.IGNORECASE)


def token_classes(pieces: Sequence[str]) -> list[TokenClass]:
    """One class for each of `pieces`, the texts that the tokens add to a response.

    `thought`: inside think tags (of a response whose prompt opened them: before the closing one).
    `tag`: think, action, search and answer tags, and special tokens. `action verb` and `object`:
    the first words and the rest of the first action block; a search's query or an answer is all
    object. `other`: between the parts, and blocks after the first, which are not carried out.
    A token without text of its own (part of a character) belongs to the character that follows.
    """
    marks = _character_classes("".join(pieces))
    classes: list[TokenClass] = []
    start = 0
    for piece in pieces:
        end = start + len(piece)
        inside = marks[start:end] or marks[start : start + 1] or marks[start - 1 : start]
        # Counter keeps the order of first occurrence, and `most_common` is stable.
        classes.append(Counter(inside).most_common(1)[0][0] if inside else "other")
        start = end
    return classes


def _character_classes(text: str) -> list[TokenClass]:
    tags = list(_TAG.finditer(text))
    marks: list[TokenClass] = ["other"] * len(text)
    named = [tag for tag in tags if tag["name"]]
    first = named[0] if named else None
    opened_by_prompt = first is not None and first["closing"] and first["name"].lower() == "think"
    region = "think" if opened_by_prompt else ""
    acted, place = False, 0
    for tag in [*tags, None]:
        end = len(text) if tag is None else tag.start()
        if region == "think":
            marks[place:end] = ["thought"] * (end - place)
        elif region == "action":
            verb = _VERB.match(text, place, end)
            border = verb.end() if verb else place
            marks[place:border] = ["action verb"] * (border - place)
            marks[border:end] = ["object"] * (end - border)
        elif region in ("search", "answer"):
            marks[place:end] = ["object"] * (end - place)
        if tag is None:
            break
        marks[tag.start() : tag.end()] = ["tag"] * (tag.end() - tag.start())
        place = tag.end()
        if not tag["name"]:
            region = ""
            continue
        name = tag["name"].lower()
        region = "" if tag["closing"] else name
        if region not in ("", "think"):
            region, acted = ("" if acted else region), True
    return marks
