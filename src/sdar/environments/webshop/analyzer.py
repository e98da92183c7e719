"""Text to search terms, as Lucene's English analyzer makes them.

Words by Unicode's word boundaries (UAX #29, with Lucene's additions for emoji and ideographs), a
possessive 's dropped, 33 stop words dropped, then Porter's stemmer with its author's later
extensions (M. F. Porter 1980). Same terms as Lucene 9.5, so rankings can be identical.
"""

from collections.abc import Iterator
from functools import lru_cache

import regex
from nltk.stem.porter import PorterStemmer

_STOP_WORDS = """
a an and are as at be but by for if in into is it no not of on or such that the their then there
these they this to was will with
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
LONGEST_TOKEN = 255
"""Lucene cuts longer words into pieces of this length."""

# The characters that may stand inside words and numbers, as of Lucene's Unicode version: later
# versions took the colon out, and the regex package follows those.
_MID_LETTER = ":\u00b7\u0387\u055f\u05f4\u2027\ufe13\ufe55\uff1a"
_MID_NUMBER = ",;\u037e\u0589\u060c\u060d\u066c\u07f8\u2044\ufe10\ufe14\ufe50\ufe54\uff0c\uff1b"
_MID_BOTH = "'.\u2018\u2019\u2024\ufe52\uff07\uff0e"
_EXTENDED = r"[\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}]*+"


def _unit(members: str) -> str:
    """One character of a class, with the marks that extend it."""
    return f"[{members}]{_EXTENDED}"


def _runs() -> str:
    letter = _unit(r"\p{WB=ALetter}\p{WB=Hebrew_Letter}")
    digit = _unit(r"\p{WB=Numeric}")
    katakana = _unit(r"\p{WB=Katakana}")
    joiner = _unit(r"\p{WB=ExtendNumLet}")
    letters = f"{letter}(?:(?:{_unit(_MID_LETTER + _MID_BOTH)})?{letter})*+"
    digits = f"{digit}(?:(?:{_unit(_MID_NUMBER + _MID_BOTH)})?{digit})*+"
    run = f"(?:(?:{letters}|{digits})++|(?:{katakana})++)"
    return f"(?:{joiner})*+{run}(?:(?:{joiner})++{run})*+(?:{joiner})*+"


_TOKEN = regex.compile(
    "|".join(
        (
            _runs(),
            rf"\p{{Extended_Pictographic}}{_EXTENDED}"
            rf"(?:(?<=\u200d)\p{{Extended_Pictographic}}{_EXTENDED})*+",
            rf"(?:\p{{WB=Regional_Indicator}}{_EXTENDED}){{2}}",
            rf"(?:\p{{Line_Break=Complex_Context}}{_EXTENDED})++",
            rf"[\p{{Script=Han}}\p{{Script=Hiragana}}]{_EXTENDED}",
        )
    )
)
# Nearly all text is of this kind, and the engine of the standard pattern is slow on properties.
_PLAIN = regex.compile(
    r"_*+(?:[a-z]++(?:[:.'][a-z]++)*+|[0-9]++(?:[,;.'][0-9]++)*+)++"
    r"(?:_++(?:[a-z]++(?:[:.'][a-z]++)*+|[0-9]++(?:[,;.'][0-9]++)*+)++)*+_*+"
)
_POSSESSIVES = ("'s", "\u2019s", "\uff07s")


def words(text: str) -> Iterator[str]:
    """The words of a lower-case text, before anything is dropped or stemmed."""
    pattern = _PLAIN if text.isascii() else _TOKEN
    for match in pattern.finditer(text):
        word = match.group()
        if len(word) <= LONGEST_TOKEN:
            yield word
        else:
            for start in range(0, len(word), LONGEST_TOKEN):
                yield word[start : start + LONGEST_TOKEN]


def analyze(text: str) -> list[str]:
    """The terms of a text, in order, with repeats. Time is linear in its length."""
    return [term for word in words(text.lower()) if (term := _term(word))]


_stem = PorterStemmer(mode=PorterStemmer.MARTIN_EXTENSIONS).stem


@lru_cache(maxsize=1 << 16)
def _term(word: str) -> str:
    """The term of a word; empty for one that is not searched for."""
    if word.endswith(_POSSESSIVES):
        word = word[:-2]
    if word in STOP_WORDS:
        return ""
    return str(_stem(word, to_lowercase=False))
