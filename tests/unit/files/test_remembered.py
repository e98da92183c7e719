"""Digests of people's data: of the content, and fast the second time."""

import json
import os
from pathlib import Path

import pytest

from sdar.files import remembered
from sdar.files.remembered import content_digest


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(path: Path, text: str, age: float = 100.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    before = path.stat().st_mtime - age
    os.utime(path, (before, before))
    return path


def test_a_digest_is_of_names_and_bytes_and_of_no_place(tmp_path: Path) -> None:
    for root in ("a", "b"):
        write(tmp_path / root / "data" / "x.json", "1")
        write(tmp_path / root / "data" / "deep" / "y.json", "2")
    first = content_digest([tmp_path / "a" / "data"])
    assert content_digest([tmp_path / "b" / "data"]) == first
    write(tmp_path / "b" / "data" / ".hidden", "3")
    assert content_digest([tmp_path / "b" / "data"]) == first
    for name, text in (("x.json", "2"), ("z.json", "1")):
        file = write(tmp_path / "b" / "data" / name, text)
        assert content_digest([tmp_path / "b" / "data"]) != first
        file.unlink()
        write(tmp_path / "b" / "data" / "x.json", "1")
    (tmp_path / "b" / "data" / "x.json").rename(tmp_path / "b" / "data" / "w.json")
    assert content_digest([tmp_path / "b" / "data"]) != first


def test_what_has_not_changed_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "x", "one")
    read: list[Path] = []
    plain = remembered.file_digest

    def counted(path: Path) -> str:
        read.append(path)
        return plain(path)

    monkeypatch.setattr(remembered, "file_digest", counted)
    first = content_digest([file])
    assert content_digest([file]) == first
    assert read == [file]
    # The same size and time, as `touch -r` leaves them: still seen, by the time of the change.
    status = file.stat()
    file.write_text("two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert content_digest([file]) != first
    assert read == [file, file]


def test_a_file_written_just_now_is_not_remembered(tmp_path: Path) -> None:
    """It may change once more within one tick of the clock."""
    file = write(tmp_path / "x", "one", age=0)
    content_digest([file])
    assert not (tmp_path / "cache" / "sdar" / "digests.json").exists()


def test_a_damaged_or_unwritable_cache_costs_time_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "x", "one")
    first = content_digest([file])
    (tmp_path / "cache" / "sdar" / "digests.json").write_text("{")
    assert content_digest([file]) == first
    (tmp_path / "cache" / "sdar" / "digests.json").write_text(json.dumps({str(file): [1]}))
    assert content_digest([file]) == first
    for path in (tmp_path / "cache" / "sdar").iterdir():
        path.unlink()
    (tmp_path / "cache" / "sdar").rmdir()
    (tmp_path / "cache" / "sdar").write_text("a file")
    assert content_digest([file]) == first

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert content_digest([file]) == first


def test_what_is_not_there_has_no_content(tmp_path: Path) -> None:
    assert content_digest([tmp_path / "none"]) == content_digest([])
