"""Paths as people write them. Everything that takes a path, in the configuration or on the command
line, reads it here, so that what a check looks at is what is used.

`~` is the home folder, `$NAME` and `${NAME}` are environment variables. The rest stands as it is:
relative paths begin where the command is started.
"""

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
_MARKS_A_FOLDER = ("/", ".", "~")


def expand(text: str) -> str:
    """`text` with the home folder and environment variables in their place.

    Raises `ValueError` for a variable that is not set or empty, and for a home that nobody has.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not os.environ.get(name):
            raise ValueError(
                f"the environment variable {name} is not set (in {text}): export it, or write the "
                "path out"
            )
        return os.environ[name]

    expanded = _VARIABLE.sub(value, text)
    if not expanded.startswith("~"):
        return expanded  # as it is: `./m` is a folder, and `m` might be a name
    try:
        return str(Path(expanded).expanduser())
    except RuntimeError:
        raise ValueError(f"{expanded} lies in no home folder: write the path out") from None


def expand_path(path: Path) -> Path:
    return Path(expand(str(path)))


GivenPath = Annotated[Path, AfterValidator(expand_path)]
"""The type of a key that names a file or folder."""
GivenModel = Annotated[str, AfterValidator(expand)]
"""The type of a key that names a model: see `model_folder`."""


_SQLITE = "sqlite:///"


def expand_store(uri: str) -> str:
    """The file of a local store like any path; the address of a server stays as it is."""
    return _SQLITE + expand(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else uri


def model_folder(name: str) -> Path | None:
    """The folder that the name of a model means; None for a name on the hub.

    A name that begins with `/`, `.` or `~` is a folder, there or not. Any other is a folder where
    there is one of that name (`models/m`), and else a name on the hub (`Qwen/Qwen3-1.7B`).
    """
    folder = Path(name).expanduser()
    return folder if name.startswith(_MARKS_A_FOLDER) or folder.is_dir() else None
