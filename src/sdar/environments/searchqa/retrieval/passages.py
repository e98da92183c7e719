"""Passage files: JSON lines of `{"id", "contents"}`.

`contents` is the title in quotes, a line break, and the text (the form of wiki-18).
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from sdar.environments.searchqa.lines import json_lines
from sdar.errors import SdarError
from sdar.files.digest import file_digest


def read_passages(path: Path) -> Iterator[tuple[str, str]]:
    """(id, contents) of each line. An integer id counts as its digits.

    Raises `SdarError` with the file and the line number for a line that is no JSON object, lacks a
    field, has an empty or unencodable text, or repeats an id; and for a file without passages.
    """
    lines: dict[str, int] = {}
    for number, row in json_lines(path, "a passage"):
        where = f"{path}, line {number}"
        identifier, contents = row.get("id"), row.get("contents")
        if isinstance(identifier, int) and not isinstance(identifier, bool):
            identifier = str(identifier)
        if not isinstance(identifier, str) or not identifier:
            raise SdarError(f"{where}: expected a text or a number as `id`: add it to the line")
        if not isinstance(contents, str) or not contents.strip():
            raise SdarError(
                f"{where}: expected a text `contents` ('\"Title\"', a line break, the text): add "
                "it or remove the line"
            )
        if not (_encodable(identifier) and _encodable(contents)):
            raise SdarError(
                f"{where}: holds half of a surrogate pair (such as \\ud83d alone), which is no "
                "text: fix or remove the line"
            )
        if identifier in lines:
            raise SdarError(
                f"{where}: the id {identifier!r} is already that of line {lines[identifier]}; ids "
                "must be unique: rename or remove one"
            )
        lines[identifier] = number
        yield identifier, contents
    if not lines:
        raise SdarError(f"{path} holds no passage: give JSON lines of id and contents")


def write_passages(path: Path, passages: Iterable[tuple[str, str]]) -> None:
    """Write (id, contents) pairs as `read_passages` reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for identifier, contents in passages:
            row = {"id": identifier, "contents": contents}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def passages_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; `SdarError` when there is none to read."""
    try:
        return file_digest(path)
    except OSError as error:
        raise SdarError(
            f"environment.retriever.passages: {path} cannot be read ({error.strerror}); give a "
            "file of JSON lines with id and contents, or run `sdar tasks` to generate passages"
        ) from error


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
