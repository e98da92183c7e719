"""One writer per folder: refused while it lives, taken over when it is dead, by exactly one."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import SoftFileLease

from sdar.errors import SdarError
from sdar.files import lock
from sdar.files.lock import only_writer

HOLD = """
import os, sys, time
from pathlib import Path
from sdar.errors import SdarError
from sdar.files.lock import only_writer
try:
    with only_writer(Path(sys.argv[1])):
        if len(sys.argv) > 3:  # a child that lives on
            if os.fork() == 0:
                time.sleep(float(sys.argv[3]))
                os._exit(0)
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
except SdarError as error:
    print(error, flush=True)
    sys.exit(2)
"""


def hold(folder: Path, seconds: float = 60, *more: str) -> subprocess.Popen[str]:
    """A process that has the lock of `folder`."""
    command = [sys.executable, "-c", HOLD, str(folder), str(seconds), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def holder(tmp_path):
    process = hold(tmp_path / "run")
    yield process
    process.kill()
    process.wait()


def marker(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"


def test_it_is_gone_afterwards_and_the_folder_need_not_be_there(tmp_path):
    folder = tmp_path / "runs" / "sdar" / "seed-0"
    for _ in range(2):
        with only_writer(folder):
            assert marker(folder).is_file()
    assert [path.name for path in folder.parent.iterdir()] == []


def test_a_living_holder_is_named(tmp_path, holder):
    with pytest.raises(SdarError) as raised, only_writer(tmp_path / "run"):
        raise AssertionError("two writers")
    said = str(raised.value)
    assert f"process {holder.pid} on {os.uname().nodename} since 20" in said
    assert str(tmp_path / "run") in said
    assert len(said) < 1000
    assert "\n" not in said


def test_a_stopped_holder_still_holds(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE", 60.0)
    holder.send_signal(signal.SIGSTOP)
    os.utime(marker(tmp_path / "run"), (time.time() - 3600,) * 2)
    with pytest.raises(SdarError, match=f"process {holder.pid} on"), only_writer(tmp_path / "run"):
        raise AssertionError("two writers")


def test_the_same_process_has_it_once(tmp_path):
    with (
        only_writer(tmp_path / "run"),
        pytest.raises(SdarError, match=f"process {os.getpid()} on"),
        only_writer(tmp_path / "run"),
    ):
        raise AssertionError("two writers")


def test_another_folder_is_free_and_a_link_to_it_is_not(tmp_path, holder):
    with only_writer(tmp_path / "run-2"):
        pass
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(SdarError), only_writer(tmp_path / "link"):
        raise AssertionError("two writers")


def test_what_a_killed_holder_leaves_is_taken_over_at_once(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert marker(tmp_path / "run").is_file()
    with only_writer(tmp_path / "run"):
        assert f"pid={os.getpid()}" in marker(tmp_path / "run").read_text()
    assert not marker(tmp_path / "run").exists()


def test_a_killed_holder_that_nobody_has_reaped_is_dead_too(tmp_path, holder):
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    with only_writer(tmp_path / "run"):
        assert f"pid={os.getpid()}" in marker(tmp_path / "run").read_text()


def test_a_child_of_a_killed_holder_does_not_keep_it(tmp_path):
    process = hold(tmp_path / "run", 60, "20")
    process.kill()
    process.wait()
    with only_writer(tmp_path / "run"):
        pass


def test_a_child_that_ends_does_not_release_it(tmp_path):
    process = hold(tmp_path / "run", 60, "0")
    time.sleep(0.5)
    with pytest.raises(SdarError), only_writer(tmp_path / "run"):
        raise AssertionError("two writers")
    process.kill()
    process.wait()


def test_a_reused_process_id_is_not_the_holder(tmp_path, holder):
    path = marker(tmp_path / "run")
    text = path.read_text()
    holder.kill()
    holder.wait()
    # The same number with another start: this process.
    path.write_text(text.replace(f"pid={holder.pid}", f"pid={os.getpid()}"))
    with only_writer(tmp_path / "run"):
        pass


@pytest.mark.parametrize("junk", [b"", b"\0" * 40, b"half a l", b"\xff\xfe junk\n"])
def test_a_marker_that_nobody_wrote(junk, tmp_path, monkeypatch):
    """After a power failure: it says nothing of a holder, so silence decides."""
    monkeypatch.setattr(lock, "SILENCE", 4.0)
    monkeypatch.setattr(lock, "_BEAT", 1.0)
    marker(tmp_path / "run").write_bytes(junk)
    with only_writer(tmp_path / "run"):
        assert f"pid={os.getpid()}" in marker(tmp_path / "run").read_text()


@pytest.mark.parametrize("what", ["folder", "another program's"])
def test_what_cannot_be_taken_over_is_named(what, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE", 2.0)
    monkeypatch.setattr(lock, "_BEAT", 0.5)
    if what == "folder":
        (marker(tmp_path / "run") / "inside").mkdir(parents=True)
    else:
        marker(tmp_path / "run").write_text("12\nelsewhere\n")
    with (
        pytest.raises(SdarError, match=re.escape(str(marker(tmp_path / "run")))),
        only_writer(tmp_path / "run"),
    ):
        raise AssertionError("held nothing")


def foreign(folder: Path) -> str:
    """A marker as a process on another host leaves it."""
    path = marker(folder)
    lease = SoftFileLease(path, lease_duration=lock.SILENCE)
    lease.acquire()
    text = re.sub("host=.*", "host=elsewhere", path.read_text())
    text = re.sub("pid=.*", "pid=4242", text)
    lease.release()
    path.write_text(text)
    return text


def test_a_holder_on_another_host_that_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE", 4.0)
    monkeypatch.setattr(lock, "_BEAT", 1.0)
    foreign(tmp_path / "run")
    over = threading.Event()

    def beat():
        while not over.wait(0.5):
            os.utime(marker(tmp_path / "run"))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with (
            pytest.raises(SdarError, match="process 4242 on elsewhere and is alive"),
            only_writer(tmp_path / "run"),
        ):
            raise AssertionError("two writers")
    finally:
        over.set()
        thread.join()


def test_a_silent_holder_on_another_host_is_taken_over(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(lock, "SILENCE", 2.0)
    monkeypatch.setattr(lock, "_BEAT", 0.5)
    foreign(tmp_path / "run")
    # Whatever the clocks say: only silence counts.
    os.utime(marker(tmp_path / "run"), (time.time() + 3600,) * 2)
    with only_writer(tmp_path / "run"):
        assert f"pid={os.getpid()}" in marker(tmp_path / "run").read_text()
    assert "process 4242 on elsewhere" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("reaped", [True, False])
def test_of_many_that_take_over_one_wins(reaped, tmp_path, holder):
    holder.kill()
    if reaped:
        holder.wait()
    else:
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run"), "60"]
    starts = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    said = [start.stdout.readline() for start in starts]
    assert said.count("held\n") == 1
    winner = starts[said.index("held\n")]
    assert sum(f"process {winner.pid} on" in line for line in said) == 7
    winner.kill()
    assert sorted(start.wait() for start in starts) == [-signal.SIGKILL, *[2] * 7]


def test_who_loses_the_lock_ends(tmp_path):
    script = HOLD.replace(
        "from sdar.files.lock",
        "from sdar.files import lock\nlock._BEAT = 0.2\nfrom sdar.files.lock",
    )
    command = [sys.executable, "-c", script, str(tmp_path / "run"), "60"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes)
    assert process.stdout.readline() == "held\n"
    marker(tmp_path / "run").unlink()
    _, said = process.communicate(timeout=20)
    assert process.returncode == lock.LOST_EXIT_CODE
    assert said.count("\n") == 1
    assert "the lock of" in said


def test_a_place_where_no_lock_can_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SdarError, match="cannot be made"), only_writer(tmp_path / "file" / "run"):
        raise AssertionError("held nothing")
