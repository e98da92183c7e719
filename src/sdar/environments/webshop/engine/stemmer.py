"""Porter's stemmer, as Lucene has it (M. F. Porter, "An algorithm for suffix stripping", 1980).

With the author's later changes: words of one or two characters stay, -bli becomes -ble, -logi
becomes -log. Written out here because the packages that have it cost seconds and 200 MB to import
(nltk), or have it without the changes (snowballstemmer). A stem's *measure* is the number of times
a vowel is followed by a consonant in it.
"""

_VOWELS = frozenset("aeiou")

_DOUBLE_SUFFIXES = (
    *(("ational", "ate"), ("tional", "tion"), ("enci", "ence"), ("anci", "ance"), ("izer", "ize")),
    *(("bli", "ble"), ("alli", "al"), ("entli", "ent"), ("eli", "e"), ("ousli", "ous")),
    *(("ization", "ize"), ("ation", "ate"), ("ator", "ate"), ("alism", "al"), ("iveness", "ive")),
    *(("fulness", "ful"), ("ousness", "ous"), ("aliti", "al"), ("iviti", "ive"), ("biliti", "ble")),
    ("logi", "log"),
)
_MIDDLE_SUFFIXES = (
    *(("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic")),
    *(("ful", ""), ("ness", "")),
)
_LAST_SUFFIXES = (
    *("al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent"),
    *("sion", "tion", "ou", "ism", "ate", "iti", "ous", "ive", "ize"),
)


def stem(word: str) -> str:
    """The stem of a lower-case word."""
    if len(word) < 3:
        return word
    word = _without_inflection(_without_plural(word))
    if word[-1] == "y" and "v" in _shape(word[:-1]):
        word = word[:-1] + "i"
    word = _replace(word, _DOUBLE_SUFFIXES)
    word = _replace(word, _MIDDLE_SUFFIXES)
    word = _without_last(word)
    return _tidy(word)


def _shape(stem: str) -> str:
    """The letters as c and v; y is a vowel after a consonant."""
    shape = []
    before = "v"
    for letter in stem:
        vowel = letter in _VOWELS or (letter == "y" and before == "c")
        before = "v" if vowel else "c"
        shape.append(before)
    return "".join(shape)


def _measure(stem: str) -> int:
    return _shape(stem).count("vc")


def _is_short(stem: str) -> bool:
    """It ends consonant, vowel, consonant, the last not w, x or y: an e was lost, as in hop(e)."""
    return _shape(stem)[-3:] == "cvc" and stem[-1] not in "wxy"


def _ends_double(stem: str) -> bool:
    return len(stem) > 1 and stem[-1] == stem[-2] and _shape(stem)[-1] == "c"


def _without_plural(word: str) -> str:
    if word.endswith(("sses", "ies")):
        return word[:-2]
    return word[:-1] if word[-1] == "s" and word[-2] != "s" else word


def _without_inflection(word: str) -> str:
    """Without -ed and -ing, and with the e that they took."""
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) else word
    ending = 2 if word.endswith("ed") else 3 if word.endswith("ing") else 0
    base = word[: len(word) - ending]
    if not ending or "v" not in _shape(base):
        return word
    if base.endswith(("at", "bl", "iz")):
        return base + "e"
    if _ends_double(base):
        return base if base[-1] in "lsz" else base[:-1]
    return base + "e" if _measure(base) == 1 and _is_short(base) else base


def _replace(word: str, suffixes: tuple[tuple[str, str], ...]) -> str:
    """The first suffix that fits is replaced, if what stands before it has a measure."""
    for suffix, replacement in suffixes:
        if word.endswith(suffix):
            base = word[: -len(suffix)]
            return base + replacement if _measure(base) else word
    return word


def _without_last(word: str) -> str:
    for suffix in _LAST_SUFFIXES:
        if word.endswith(suffix):
            base = word[: -len(suffix)]
            if suffix in ("sion", "tion"):
                base += suffix[0]
            return base if _measure(base) > 1 else word
    return word


def _tidy(word: str) -> str:
    """Without a final e, and with one l for two."""
    measure = _measure(word)
    if word[-1:] == "e" and (measure > 1 or (measure == 1 and not _is_short(word[:-1]))):
        word = word[:-1]
    return word[:-1] if word.endswith("ll") and measure > 1 else word
