"""Names from data (task types, splits, panels) as text in documents and figures: whatever they
hold, they stay names."""

import re
import unicodedata

_MARKUP = re.compile(
    r"[|`\\~$*]"  # cells, code, escapes, strikes, formulas, emphasis
    r"|<(?=[a-z/!?])"  # a tag; `<0.001` is none
    r"|&(?=#|\w)"  # an entity
    r"|\[(?![-+\d.,\s]*\])"  # a link or picture; an interval is none
    r"|(?<![^\W_])_|_(?![^\W_])",  # emphasis; the line in `warm_start` is none
    re.IGNORECASE,
)
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
"""Control and formatting characters (some turn the direction of the text), surrogates, breaks."""
LONGEST = 60


def visible(text: str) -> str:
    """One line without characters that cannot be seen: line breaks and tabs become spaces, others
    their code, such as `\\u202e`."""
    text = re.sub(r"[\t\n\v\f\r\x85\u2028\u2029]+", " ", text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_code(c) if unicodedata.category(c) in _HIDDEN else c for c in text)


def printable(text: str) -> str:
    """`visible`, with line breaks and tabs as they are: for a terminal, which obeys some others."""
    return "".join(
        _code(c) if c not in "\n\t" and unicodedata.category(c) in _HIDDEN else c for c in text
    )


def short(text: str) -> str:
    """`visible`, and at most `LONGEST` characters."""
    text = visible(text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def markdown(text: str) -> str:
    """`visible`, and without meaning in Markdown or its tables; ordinary names stay as they are.

    Entities, because a backslash before `|` is itself escaped by a backslash before it.
    """
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", visible(text))


def _code(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
