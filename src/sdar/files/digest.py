"""SHA-256 of what things are: files, texts, JSON values, folders. All hexadecimal, 64 digits; a
short digest is the beginning of one."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def parts_digest(parts: Iterable[bytes]) -> str:
    """Of bytes that come in parts, as if they were one."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def text_digest(text: str) -> str:
    """Of a text as UTF-8."""
    return parts_digest([text.encode()])


def json_digest(value: Any) -> str:
    """Of a JSON value, whatever the order of its keys."""
    return text_digest(json.dumps(value, sort_keys=True))


def file_digest(path: Path) -> str:
    """Of a file's bytes; raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """Of the names and bytes of all files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return parts_digest(
        part
        for path in files
        for part in (str(path.relative_to(folder)).encode(), bytes.fromhex(file_digest(path)))
    )
