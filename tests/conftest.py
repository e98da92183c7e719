"""Fixtures shared by all tests."""

import os
import signal
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# Started in the background by a shell, the tests and all they start would be deaf to Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden numbers and real data that lies beside the project, where it exists."""
    path = Path(os.environ.get("SDAR_SHARED", REPOSITORY.parent / "shared"))
    if not (path / "goldens").is_dir():
        pytest.skip(f"no golden data at {path}: set SDAR_SHARED to the folder that holds goldens/")
    return path
