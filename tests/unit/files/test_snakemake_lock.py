"""When may a lock that Snakemake left be removed?"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sdar.errors import SdarError
from sdar.files import snakemake_lock
from sdar.files.snakemake_lock import HOLDER, LOCKS, check_stale, is_locked, note_holder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / LOCKS).mkdir(parents=True)
    (tmp_path / LOCKS / "0.input.lock").touch()
    return tmp_path


@pytest.fixture
def working(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    code = "import sys; print(flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_folder_without_a_lock(tmp_path: Path, root: Path) -> None:
    assert is_locked(root)
    (root / LOCKS / "0.input.lock").unlink()
    assert not is_locked(root)
    assert not is_locked(tmp_path / "none")


def test_a_dead_holder_s_lock_is_stale(root: Path) -> None:
    check_stale(root)  # nobody noted anything, and nobody works here
    dead = start(root)
    dead.kill()
    dead.wait()
    about = {"host": os.uname().nodename, "pid": dead.pid, "started": 1.0}
    (root / HOLDER).write_text(json.dumps(about))
    check_stale(root)


@pytest.mark.parametrize(
    "words",
    [
        ("/somewhere/bin/snakemake", "--profile", "x"),
        ("-m", "snakemake"),
        ("/somewhere/bin/sdar", "train", "--method", "sdar"),
        ("torchrun", "--no-python", "sdar", "train"),
        ("-m", "sdar.cli", "evaluate"),
    ],
)
def test_who_works_here_is_named(
    root: Path, words: tuple[str, ...], working: list[subprocess.Popen[bytes]]
) -> None:
    working.append(start(root, *words))
    with pytest.raises(SdarError, match=f"process {working[0].pid} still works here") as raised:
        check_stale(root)
    assert len(str(raised.value)) < 1000


def test_others_do_not_count(
    root: Path, tmp_path: Path, working: list[subprocess.Popen[bytes]]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    working += [
        start(elsewhere, "/bin/snakemake"),
        start(root, "sdar", "ui"),
        start(root, "vim", "Snakefile"),
    ]
    # A process that has the number of a dead one.
    about = {"host": os.uname().nodename, "pid": working[0].pid, "started": 1.0}
    (root / HOLDER).write_text(json.dumps(about))
    check_stale(root)


def test_the_holder_counts_whatever_it_is_called(
    root: Path, monkeypatch: pytest.MonkeyPatch, working: list[subprocess.Popen[bytes]]
) -> None:
    working.append(start(root, "anything"))
    monkeypatch.setattr(psutil, "Process", lambda _of=psutil.Process: _of(working[0].pid))
    note_holder(root)
    monkeypatch.undo()
    with pytest.raises(SdarError, match="still works here"):
        check_stale(root)


def test_what_cannot_be_seen_is_left_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snakemake_lock, "_is_on_a_network", lambda _root: True)
    with pytest.raises(SdarError, match=r"perhaps on another host.*snakemake --unlock"):
        check_stale(root)
    (root / HOLDER).write_text(json.dumps({"host": "login2", "pid": 7, "started": 1.0}))
    with pytest.raises(SdarError, match=r"on login2 \(process 7\).*snakemake --unlock"):
        check_stale(root)
    note_holder(root)
    check_stale(root)  # this process is not counted: it is the one that asks
