"""Is an answer right? Exact match after SQuAD's normalisation (Rajpurkar et al. 2016).

The reference's rules for Search-QA: the last `<answer>` block counts, tags are matched in exactly
this case, and any of the accepted answers will do.
"""

import re
import string
from collections.abc import Iterable

_OPENING, _CLOSING = "<answer>", "</answer>"
_ARTICLE = ("a", "an", "the")
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


def is_right(answer: str, targets: Iterable[str]) -> bool:
    """What is rewarded: `answer` equals one of `targets`, both normalised.

    Of a target such as "A", "The The" or "..." normalisation leaves nothing, which any article
    would equal: there only its own text counts, case included. An empty answer is never right.
    """
    return any(_equal(answer, target) for target in _listed(targets))


def exact_match(text: str, targets: Iterable[str]) -> bool:
    """The last answer in `text` is right, by the reference's measure.

    It is `is_right`, but takes one article in lower case for another, as the reference does.
    """
    answer = last_answer(text)
    if answer is None:
        return False
    return any(_equal(answer, target) or _articles(answer, target) for target in _listed(targets))


def substring_match(text: str, targets: Iterable[str]) -> bool:
    """One of `targets` lies anywhere in the last answer in `text`, both normalised; of those that
    normalise to nothing, as in `exact_match`.

    Kinder than exact match, and easily fooled (`atre` is in `theatre`): reported, never rewarded.
    """
    answer = last_answer(text)
    if answer is None:
        return False
    given = normalize_answer(answer)
    for target in _listed(targets):
        normal = normalize_answer(target)
        if normal and normal in given:
            return True
        if not normal and (_equal(answer, target) or _articles(answer, target)):
            return True
    return False


def _equal(answer: str, target: str) -> bool:
    normal = normalize_answer(target)
    if normal:
        return normalize_answer(answer) == normal
    return bool(answer.strip()) and answer.strip() == target.strip()


def _articles(answer: str, target: str) -> bool:
    return answer.strip() in _ARTICLE and target.strip() in _ARTICLE


def _listed(targets: Iterable[str]) -> Iterable[str]:
    """A single text is one target, not its letters."""
    return (targets,) if isinstance(targets, str) else targets
