"""Processes that make games: what a lost one had not delivered is made again."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from sdar.environments.alfworld.world.makers import made
from sdar.errors import SdarError


def make(request: tuple[str, int]) -> int:
    """Twice the number; the first process that comes to 5 meets its fate there, or each does."""
    folder, number = request
    if number == 5:
        fate = (Path(folder) / "fate").read_text()
        met = Path(folder) / "met"
        if fate.startswith("always") or not met.exists():
            met.touch()
            os.kill(os.getpid(), signal.SIGSTOP if fate.endswith("stopped") else signal.SIGKILL)
            time.sleep(60)
    return 2 * number


@pytest.mark.parametrize("fate", ["killed", "stopped"])
def test_what_is_lost_is_made_again(
    tmp_path: Path, fate: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "fate").write_text(fate)
    before = psutil.Process().children()
    requests = [(str(tmp_path), number) for number in range(12)]
    assert list(made(make, requests, 2, seconds=15.0)) == [2 * n for n in range(12)]
    (said,) = [record.getMessage() for record in caplog.records]
    why = "has ended unexpectedly" if fate == "killed" else "has not answered for 15 s"
    assert f"{why}: what is missing is made again" in said
    left = [child for child in psutil.Process().children() if child not in before]
    assert not left[1:], "all but the tracker of resources are gone"


def test_what_is_lost_always_is_named(tmp_path: Path) -> None:
    (tmp_path / "fate").write_text("always killed")
    requests = [(str(tmp_path), number) for number in range(8)]
    with pytest.raises(SdarError, match=r"makes .*, 5\) has ended unexpectedly, 3 times in a row"):
        list(made(make, requests, 2, seconds=60.0))


def test_an_error_in_a_game_is_that_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="fate"):
        list(made(make, [(str(tmp_path), 5)], 2, seconds=60.0))
