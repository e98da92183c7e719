"""Text to search terms, as Lucene's English analyzer makes them.

Words by Unicode's word boundaries (UAX #29, with Lucene's additions for emoji and ideographs), a
possessive 's dropped, 33 stop words dropped, then Porter's stemmer with its author's later
extensions (M. F. Porter 1980). Same terms as Lucene 9.5, so rankings can be identical.
"""

from collections.abc import Iterator
from functools import lru_cache

import regex

from sdar.environments.webshop.engine.stemmer import stem

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
# Extended_Pictographic of the same version, in ranges; later versions took symbols such as the
# black star out.
_PICTOGRAPHS = """
a9 ae 203c 2049 2122 2139 2194-2199 21a9-21aa 231a-231b 2328 2388 23cf 23e9-23f3 23f8-23fa 24c2
25aa-25ab 25b6 25c0 25fb-25fe 2600-2605 2607-2612 2614-2685 2690-2705 2708-2712 2714 2716 271d
2721 2728 2733-2734 2744 2747 274c 274e 2753-2755 2757 2763-2767 2795-2797 27a1 27b0 27bf
2934-2935 2b05-2b07 2b1b-2b1c 2b50 2b55 3030 303d 3297 3299 1f000-1f0ff 1f10d-1f10f 1f12f
1f16c-1f171 1f17e-1f17f 1f18e 1f191-1f19a 1f1ad-1f1e5 1f201-1f20f 1f21a 1f22f 1f232-1f23a
1f23c-1f23f 1f249-1f3fa 1f400-1f53d 1f546-1f64f 1f680-1f6ff 1f774-1f77f 1f7d5-1f7ff 1f80c-1f80f
1f848-1f84f 1f85a-1f85f 1f888-1f88f 1f8ae-1f8ff 1f90c-1f93a 1f93c-1f945 1f947-1fffd
"""
_EXTENDED = r"[\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}]*+"


def _unit(members: str) -> str:
    """One character of a class, with the marks that extend it."""
    return f"[{members}]{_EXTENDED}"


def _pictograph() -> str:
    ranges = [[chr(int(end, 16)) for end in span.split("-")] for span in _PICTOGRAPHS.split()]
    return _unit("".join("-".join(ends) for ends in ranges))


def _joiner() -> str:
    return _unit(r"\p{WB=ExtendNumLet}")


def _runs() -> str:
    letter = _unit(r"\p{WB=ALetter}\p{WB=Hebrew_Letter}")
    digit = _unit(r"\p{WB=Numeric}")
    katakana = _unit(r"\p{WB=Katakana}")
    joiner = _joiner()
    letters = f"{letter}(?:(?:{_unit(_MID_LETTER + _MID_BOTH)})?{letter})*+"
    digits = f"{digit}(?:(?:{_unit(_MID_NUMBER + _MID_BOTH)})?{digit})*+"
    run = f"(?:(?:{letters}|{digits})++|(?:{katakana})++)"
    return f"(?:{joiner})*+{run}(?:(?:{joiner})++{run})*+(?:{joiner})*+"


_TOKEN = regex.compile(
    "|".join(
        (
            _runs(),
            rf"{_pictograph()}(?:(?<=\u200d){_pictograph()})*+",
            rf"(?:\p{{WB=Regional_Indicator}}{_EXTENDED}){{2}}",
            rf"(?:\p{{Line_Break=Complex_Context}}{_EXTENDED})++",
            rf"[\p{{Script=Han}}\p{{Script=Hiragana}}]{_EXTENDED}",
            # No word, but taken in one piece: else each of its characters would be tried as the
            # start of one, in a time that grows with the square of their number.
            rf"(?P<nothing>(?:{_joiner()})++)",
        )
    )
)
# Nearly all text is of this kind, and the engine of the standard pattern is slow on properties.
_PLAIN_RUN = r"(?:[a-z]++(?:[:.'][a-z]++)*+|[0-9]++(?:[,;.'][0-9]++)*+)++"
_PLAIN = regex.compile(rf"_*+{_PLAIN_RUN}(?:_++{_PLAIN_RUN})*+_*+|(?P<nothing>_++)")
_POSSESSIVES = ("'s", "\u2019s", "\uff07s")


def words(text: str) -> Iterator[str]:
    """The words of a lower-case text, before anything is dropped or stemmed."""
    pattern = _PLAIN if text.isascii() else _TOKEN
    for match in pattern.finditer(text):
        if match.lastgroup:
            continue
        word = match.group()
        if len(word) <= LONGEST_TOKEN:
            yield word
        else:
            for start in range(0, len(word), LONGEST_TOKEN):
                yield word[start : start + LONGEST_TOKEN]


def analyze(text: str) -> list[str]:
    """The terms of a text, in order, with repeats. Time is linear in its length."""
    return [term for word in words(text.lower()) if (term := _term(word))]


@lru_cache(maxsize=1 << 16)
def _term(word: str) -> str:
    """The term of a word; empty for one that is not searched for."""
    if word.endswith(_POSSESSIVES):
        word = word[:-2]
    if word in STOP_WORDS:
        return ""
    return stem(word)
