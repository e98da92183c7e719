"""Fixtures shared by all tests."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdar.interruption import SIGNALS

REPOSITORY = Path(__file__).resolve().parent.parent

# Started in the background by a shell, the tests and all they start would be deaf to Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts processes and trains is slow, wherever it is written: a folder is a promise."""
    folders = [REPOSITORY / "tests" / name for name in ("integration", "workflow")]
    for item in items:
        if any(folder in item.path.parents for folder in folders):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """A command run in this process ends deaf to signals: later tests, and what they start, aren't.

    A started program inherits a signal that is ignored, so it would never hear Ctrl-C.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def store_as_before() -> Iterator[None]:
    """A run recorded in this process hands its store's URI down to what it starts, by a variable:
    what later tests start has not got it."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    else:
        os.environ["MLFLOW_TRACKING_URI"] = before


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
