"""Is an answer right? Exact match after SQuAD's normalisation (Rajpurkar et al. 2016).

The reference's rules for Search-QA: the last `<answer>` block counts, tags are matched in exactly
this case, and any of the accepted answers will do.
"""

import re
import string
from collections.abc import Iterable

_OPENING, _CLOSING = "<answer>", "</answer>"
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, articles, and extra white space."""
    bare = text.lower().translate(_WITHOUT_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def last_answer(text: str) -> str | None:
    """The inside of the last complete `<answer>` block, stripped; None without any."""
    # Not a regular expression: its time is quadratic in opening tags that nothing closes.
    last, behind = None, 0
    while (start := text.find(_OPENING, behind)) >= 0:
        end = text.find(_CLOSING, start)
        if end < 0:
            break
        last, behind = text[start + len(_OPENING) : end].strip(), end + len(_CLOSING)
    return last


def exact_match(text: str, targets: Iterable[str]) -> bool:
    """The last answer in `text` equals one of `targets`, both normalised."""
    answer = last_answer(text)
    if answer is None:
        return False
    given = normalize_answer(answer)
    return any(normalize_answer(target) == given for target in targets)


def substring_match(text: str, targets: Iterable[str]) -> bool:
    """One of `targets` lies anywhere in the last answer in `text`, both normalised.

    Kinder than exact match, and easily fooled (`atre` is in `theatre`): reported, never rewarded.
    """
    answer = last_answer(text)
    if answer is None:
        return False
    given = normalize_answer(answer)
    return any(normalize_answer(target) in given for target in targets)
