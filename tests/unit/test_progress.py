"""Progress outside a terminal: whole lines, seldom, with the time left, and one at the end."""

import io
import re
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TextIO

import pytest

from sdar import progress
from sdar.progress import EVERY, Progress

LINE = re.compile(r"work: \d+/\d+ games, \d\d:\d\d so far, (\d\d:\d\d|\?) left.*")


class Clock:
    """Time that passes when told to; stands in for every clock a bar may read."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress.time, "monotonic", made)
    monkeypatch.setattr("tqdm.std.time", made)
    monkeypatch.setattr(Progress, "monitor_interval", 0)  # its thread reads the real clock
    return made


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> list[tuple[float, str]]:
    """When each line came, and what it says."""
    made: list[tuple[float, str]] = []

    def record(text: str, file: TextIO, flush: bool) -> None:
        assert file is sys.stderr
        assert flush, "a log is read while it is written"
        made.append((clock.now, text))

    monkeypatch.setattr(progress, "print", record, raising=False)
    return made


def run(clock: Clock, total: int, seconds: float, **options: Any) -> None:
    """Do `total` units of so many seconds."""
    with Progress(total=total, desc="work", unit="game", **options) as bar:
        for _ in range(bar.n, total):
            clock.now += seconds
            bar.update()


def test_lines_are_whole_seldom_and_tell_the_time_left(
    clock: Clock, printed: list[tuple[float, str]]
) -> None:
    run(clock, total=310, seconds=0.5)
    lines = [text for _, text in printed]
    assert len(lines) == 16
    assert all(LINE.fullmatch(line) for line in lines), lines
    gaps = [after - before for (before, _), (after, _) in pairwise(printed)]
    assert min(gaps[:-1]) >= EVERY
    assert lines[9] == "work: 200/310 games, 01:40 so far, 00:55 left"
    assert lines[-1] == "work: 310/310 games, 02:35 so far, 00:00 left"


def test_the_end_is_told_once_however_soon_it_comes(
    clock: Clock, printed: list[tuple[float, str]]
) -> None:
    run(clock, total=13, seconds=1.0)
    assert [line.split()[1] for _, line in printed] == ["10/13", "13/13"]


@pytest.mark.parametrize("loop", [iter, list])
def test_a_loop_that_ends_at_once_says_so(
    clock: Clock, printed: list[tuple[float, str]], loop: Callable[[Any], Any]
) -> None:
    assert list(Progress(loop(range(5)), total=5, desc="work", unit="game")) == list(range(5))
    assert [line for _, line in printed] == ["work: 5/5 games, 00:00 so far, ? left"]


def test_a_continued_run_begins_where_it_stood(
    clock: Clock, printed: list[tuple[float, str]]
) -> None:
    run(clock, total=100, seconds=1.0, initial=70)
    shown = [line.split()[1] for _, line in printed]
    assert shown[0] == "70/100"
    assert shown[-1] == "100/100"
    assert len(shown) == len(set(shown)) <= 5


def test_what_was_broken_off_is_not_called_finished(
    clock: Clock, printed: list[tuple[float, str]]
) -> None:
    def interrupted() -> None:
        for index in Progress(range(5), desc="work", unit="game"):
            if index == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not any("5/5" in line for _, line in printed)


def test_numbers_beside_it_wait_for_the_next_line(
    clock: Clock, printed: list[tuple[float, str]]
) -> None:
    with Progress(total=2, desc="work", unit="game") as bar:
        bar.set_postfix(loss="9.000")
        assert not printed
        bar.update()
        clock.now += EVERY
        bar.set_postfix(loss="0.500")
        bar.update()
    assert printed[-1][1].endswith("left, loss=0.500")


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    list(Progress(range(5), desc="work", unit="game"))
    assert "\rwork: 100%|" in terminal.getvalue()
