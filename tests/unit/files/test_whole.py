"""Whole or not at all: a failed write leaves the old content, and nothing beside it."""

import errno
import json
import os
import stat
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdar.errors import SdarError
from sdar.files.whole import (
    built_folder,
    read_json,
    write_bytes,
    write_file,
    write_folder,
    write_json,
    write_parquet,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_content_and_mode(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "on demand"
    write_bytes(folder / "bytes", b"\x00\r\n")
    write_text(folder / "text", "é\r\n\n")
    write_json(folder / "json", {"b": "é", "a": [1]})
    table = pa.table({"a": [1, 2]})
    write_parquet(folder / "parquet", table)
    assert (folder / "bytes").read_bytes() == b"\x00\r\n"
    assert (folder / "text").read_bytes() == "é\r\n\n".encode()
    assert (folder / "json").read_text("utf-8") == '{\n "b": "é",\n "a": [\n  1\n ]\n}\n'
    assert pq.read_table(folder / "parquet").equals(table)
    assert names(folder) == ["bytes", "json", "parquet", "text"]
    (tmp_path / "usual").write_text("")
    usual = stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {usual}


def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_text(path, "old")

    def full_disk(temporary: Path) -> None:
        temporary.write_text("ne")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(SdarError) as caught:
        write_file(path, full_disk)
    assert str(caught.value) == (
        f"{path}: cannot be written (No space left on device); free some space or fix the folder's "
        "permissions, then run the same command again: what is finished is kept"
    )
    assert path.read_text() == "old"
    assert names(tmp_path) == ["summary.json"]


def test_another_error_is_not_disguised_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_text(path, "old")

    def broken(temporary: Path) -> None:
        temporary.write_text("ne")
        raise KeyError("a")

    with pytest.raises(KeyError):
        write_file(path, broken)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["summary.json"]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SdarError, match=r"cannot be written .*; free some space or fix"):
        write_text(tmp_path / "file" / "text", "new")


@pytest.mark.parametrize("text", [None, "", "[1]", '{"a": 1', "\x00"])
def test_a_json_object_that_is_missing_or_damaged_is_empty(
    text: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "state.json"
    if text is not None:
        path.write_text(text)
    assert read_json(path) == {}
    path.write_text(json.dumps({"a": 1}))
    assert read_json(path) == {"a": 1}


def fill_with(text: str):
    return lambda folder: (folder / "a").write_text(text) and None


def test_a_folder_is_replaced_in_one_piece(tmp_path: Path) -> None:
    target = tmp_path / "policy"
    write_folder(target, fill_with("old"))
    write_folder(target, fill_with("new"))
    assert (target / "a").read_text() == "new"
    assert names(tmp_path) == ["policy"]


@pytest.mark.parametrize("error", [OSError("broken"), RuntimeError("broken")])
def test_a_failed_folder_leaves_the_old_one(error: Exception, tmp_path: Path) -> None:
    target = tmp_path / "policy"
    write_folder(target, fill_with("old"))

    def half(folder: Path) -> None:
        (folder / "a").write_text("new")
        raise error

    with pytest.raises(SdarError) as caught:
        write_folder(target, half, remedy="do this", failures=(RuntimeError,))
    assert str(caught.value) == f"{target}: cannot be written (broken); do this"
    assert (target / "a").read_text() == "old"
    assert names(tmp_path) == ["policy"]


def test_a_folder_whose_last_step_fails_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "policy"
    write_folder(target, fill_with("old"))
    rename = Path.rename

    def refuse(path: Path, to: Path) -> Path:
        if to == target and "replaced" not in path.name:
            raise PermissionError(errno.EACCES, "Permission denied")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(
        SdarError, match=r"policy cannot be replaced \(Permission denied\): remove it"
    ):
        write_folder(target, fill_with("new"))
    assert (target / "a").read_text() == "old"
    assert names(tmp_path) == ["policy"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    for leftover in (".policy.partial", ".policy.12ab34cd", ".policy.12ab34cd.replaced"):
        (tmp_path / leftover / "part").mkdir(parents=True)
    write_folder(tmp_path / "policy", fill_with("new"))
    assert names(tmp_path) == ["policy"]


def test_of_two_that_build_a_folder_the_first_stays_where_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "index"
    with built_folder(target, is_whole=lambda path: (path / "a").is_file()) as late:
        with built_folder(target) as early:
            fill_with("early")(early)
        fill_with("late")(late)
    assert (target / "a").read_text() == "early"
    assert names(tmp_path) == ["index"]


def test_a_broken_folder_makes_room(tmp_path: Path) -> None:
    target = tmp_path / "index"
    (target / "half").mkdir(parents=True)
    with built_folder(target, is_whole=lambda path: (path / "a").is_file()) as building:
        fill_with("new")(building)
    assert names(target) == ["a"]
    assert names(tmp_path) == ["index"]


def test_a_folder_that_is_not_finished_is_gone(tmp_path: Path) -> None:
    def interrupted() -> None:
        with built_folder(tmp_path / "tasks") as building:
            fill_with("half")(building)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == []
