"""Which skill the teacher of a task reads: the kinds of `skills.retrieval`.

`type` looks up the exact task type. `keyword` counts declared keywords in the task's *instruction*,
word by word: `hat` is not in `that`. `all` joins every type's text. `random` draws a type from
(seed, task id) alone, so that every sample of a task has the same. `none` is no skill: the teacher
reads what the student reads.
"""

import random
import re
import unicodedata
from collections.abc import Mapping, Sequence

import yaml

FRONT_MATTER = re.compile(
    r"\A---[ \t]*\n(?P<values>.*?)^---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE
)
WORD = re.compile(r"[^\W_]+")
SHORTEST_DERIVED = 3
"""Letters: shorter words of a title ("to", "in") distinguish no types."""


def split_front_matter(text: str) -> tuple[dict[str, object], str]:
    """The YAML between two `---` lines at the top of a skill (empty without), and the rest.

    Raises ValueError, with a sentence, where it is not YAML of the form `keywords: [...]`.
    """
    front = FRONT_MATTER.match(text)
    if front is None:
        return {}, text.strip()
    try:
        values = yaml.safe_load(front["values"]) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"is not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict) or set(values) - {"keywords"}:
        raise ValueError("knows the key `keywords` alone")
    keywords = values.get("keywords", [])
    if not isinstance(keywords, list) or not all(words(str(word)) for word in keywords):
        raise ValueError("expects `keywords` to be a list of words")
    return values, text[front.end() :].strip()


def words(text: str) -> tuple[str, ...]:
    """Words in order, without case or compatibility forms; hyphens and underscores part words."""
    return tuple(WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def derived_keywords(titles: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Keywords of skills that declare none: the words of a type's name and of its text's first
    line that no other type's have. `titles`: type -> first line."""
    own = {name: set(words(f"{name} {title}")) for name, title in titles.items()}
    return {
        name: tuple(
            sorted(
                word
                for word in mine
                if len(word) >= SHORTEST_DERIVED
                and not any(word in theirs for other, theirs in own.items() if other != name)
            )
        )
        for name, mine in own.items()
    }


def matches(keywords: Sequence[str], instruction: str) -> int:
    """How many distinct keywords occur in the instruction as whole words.

    A keyword of several words must occur in one piece; its last word may be a regular plural.
    """
    spoken = words(instruction)
    return sum(_occurs(keyword, spoken) for keyword in {words(keyword) for keyword in keywords})


def _occurs(keyword: tuple[str, ...], text: tuple[str, ...]) -> bool:
    length = len(keyword)
    forms = [(*keyword[:-1], keyword[-1] + ending) for ending in ("", "s", "es")]
    return any(text[at : at + length] in forms for at in range(len(text) - length + 1))


def best_match(keywords: Mapping[str, Sequence[str]], instruction: str) -> str | None:
    """The type with most distinct keywords in the instruction, the first by name among equals;
    None where no keyword occurs."""
    counts = {name: matches(keywords[name], instruction) for name in sorted(keywords)}
    best = max(counts, key=lambda name: counts[name], default=None)
    return best if best is not None and counts[best] else None


def drawn_type(task_types: Sequence[str], seed: int, task_id: str) -> str:
    """A type drawn uniformly: a function of (types, seed, task id) alone."""
    return random.Random(f"skill {seed} {task_id}").choice(sorted(task_types))
