"""The times of a copied project."""

import os
import shutil
from pathlib import Path

import pytest

from sdar.files import copies
from sdar.files.copies import note_times, restore_times

RUNS = Path("runs") / "x"
KEPT = "checkpoints/large"
"""No output of a rule: nobody compares its time."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    policy = root / RUNS / "policy"
    policy.mkdir(parents=True)
    (root / RUNS / "checkpoints").mkdir()
    for number, name in enumerate(("policy/weights", f"policy/{copies.STAMP}", "table", KEPT)):
        path = root / RUNS / name
        path.write_text("" if path.name == copies.STAMP else path.name)
        os.utime(path, (1000 + number, 1000 + number))
    note_times(root, [RUNS])
    return root


def times(root: Path) -> dict[str, float]:
    files = [path for path in (root / RUNS).rglob("*") if path.is_file()]
    return {path.relative_to(root / RUNS).as_posix(): path.stat().st_mtime for path in files}


def copy_of(project: Path) -> Path:
    """As `cp -r` makes it: all times are new, in no order."""
    copy = project.parent / "copy"
    shutil.copytree(project, copy, copy_function=shutil.copyfile)
    return copy


def test_a_copy_has_the_times_of_its_original(project: Path) -> None:
    copy = copy_of(project)
    assert times(copy) != times(project)
    assert restore_times(copy) == 3
    assert times(copy) | {KEPT: 0} == times(project) | {KEPT: 0}
    os.utime(copy / RUNS / "table")
    assert restore_times(copy) == 0, "once: what happens later in the copy counts"


def test_a_copy_of_a_copy(project: Path, tmp_path: Path) -> None:
    first = copy_of(project)
    restore_times(first)
    second = tmp_path / "second"
    shutil.copytree(first, second, copy_function=shutil.copyfile)
    assert restore_times(second) == 3


def test_in_the_original_nothing_is_put_back(project: Path) -> None:
    os.utime(project / RUNS / "table")
    assert restore_times(project) == 0
    project.rename(project.with_name("moved"))
    assert restore_times(project.with_name("moved")) == 0
    assert restore_times(project.parent) == 0, "no note at all"


def test_what_was_changed_in_the_copy_keeps_its_time(project: Path) -> None:
    copy = copy_of(project)
    (copy / RUNS / "table").write_text("elbat")
    (copy / RUNS / "policy" / "weights").write_text("STHGIEW")
    assert restore_times(copy) == 0


def test_a_large_file_is_compared_by_parts(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "WHOLE", 100)
    monkeypatch.setattr(copies, "PART", 10)
    large = project / RUNS / "policy" / "weights"
    large.write_bytes(bytes(range(250)) * 40)
    note_times(project, [RUNS])
    copy = copy_of(project)
    assert restore_times(copy) == 3
    shutil.rmtree(copy)
    copy = copy_of(project)
    other = copy / RUNS / "policy" / "weights"
    other.write_bytes(bytes(250 - value for value in range(250)) * 40)
    assert restore_times(copy) == 1


def test_another_experiment_s_times_are_kept(project: Path) -> None:
    other = project / "runs" / "y"
    other.mkdir()
    (other / "table").write_text("y")
    os.utime(other / "table", (5, 5))
    note_times(project, [Path("runs") / "y"])
    copy = copy_of(project)
    assert restore_times(copy) == 4
