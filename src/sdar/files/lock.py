"""One writer per folder: a lock that says who holds it, and that a dead holder does not keep.

The lock is a file beside the folder, `.NAME.lock`, made and replaced by steps that are atomic on
network file systems too (filelock's `SoftFileLease`). It names host and process, and a thread of
the holder touches it every few seconds. A holder on this host is dead when its process is gone,
however long it has been silent: one that is only stopped still holds. Of a holder on another host
only the silence can be seen. Children of the holder do not hold it.
"""

import contextlib
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import psutil
from filelock import FileLock, LeaseSettingsMismatch, SoftFileLease, Timeout

from sdar.errors import SdarError

SILENCE = 60.0
"""Seconds without a sign of life after which a holder on another host is taken for dead."""
LOST_EXIT_CODE = 71
_BEAT = 10.0
_POLL = 0.2
# A marker that two starts take over at the same time may show its old text for a moment.
_LOOKS = 3
log = logging.getLogger("sdar.files")


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """A block in which no other process writes `folder`.

    Raises `SdarError` naming the holder where there is one. Waits only where the holder is on
    another host and may be dead. A process that loses the lock (another host took it for dead, or
    somebody removed the file) ends at once.
    """
    folder = folder.resolve()
    path = folder.parent / f".{folder.name}.lock"
    lease = SoftFileLease(
        path,
        lease_duration=SILENCE,
        heartbeat_interval=_BEAT,
        thread_local=False,
        on_compromise=lambda _: _end(folder),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _acquire(lease, folder)
    except OSError as error:
        raise SdarError(
            f"{path}: cannot be made ({error.strerror or error}); free some space or fix the "
            "permissions of its folder, then run again"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lease.release()


def _acquire(lease: SoftFileLease, folder: Path) -> None:
    began, looks, before = time.monotonic(), 0, None
    blank = _last_beat(lease)
    # Starts on one host take turns, so none removes what another has just put there.
    digest = hashlib.sha256(os.fsencode(lease.lock_file)).hexdigest()[:16]
    turn = FileLock(
        Path(tempfile.gettempdir()) / f"sdar-{os.getuid()}-{digest}.lock", timeout=SILENCE
    )
    while True:
        silent = time.monotonic() - began
        with turn:
            try:
                lease.acquire(timeout=0)
                return
            except Timeout:
                owner, beat = lease.owner, _last_beat(lease)
            except LeaseSettingsMismatch as error:
                raise SdarError(
                    f"{folder} is locked by another version of sdar ({error}): end that process, "
                    f"or remove {lease.lock_file}"
                ) from None
            here = owner if owner is not None and owner.hostname == _this_host() else None
            if (here and _is_unreaped(here)) or (silent > SILENCE and _is_blank(lease, blank)):
                lease.force_break()
                continue
        looks = looks + 1 if before is not None and owner == before[0] else 1
        if here:
            if looks >= _LOOKS and (since := _alive_since(here.pid)) is not None:
                _refuse(folder, here, f"since {since:%Y-%m-%d %H:%M:%S} UTC")
        elif before is not None and owner == before[0] and beat != before[1]:
            if owner is not None:
                _refuse(folder, owner, "and is alive")
        elif before is None and owner is not None:
            log.warning(
                "%s is locked by process %d on %s: waiting %d seconds at most for a sign of life",
                *(folder, owner.pid, _plain(owner.hostname), SILENCE),
            )
        if silent > SILENCE + _BEAT:
            raise SdarError(
                f"{lease.lock_file}: locked, and cannot be taken over: remove it if no process "
                f"writes {folder}, then run again"
            )
        before = owner, beat
        time.sleep(_POLL)


def _refuse(folder: Path, owner: Any, state: str) -> NoReturn:
    raise SdarError(
        f"{folder} is being written by process {owner.pid} on {_plain(owner.hostname)} {state}: "
        "wait until it ends, or end it, then run the same command again"
    )


def _alive_since(process: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(psutil.Process(process).create_time(), UTC)
    except psutil.NoSuchProcess:
        return None


def _is_unreaped(owner: Any) -> bool:
    """Whether a holder has ended and its parent has not noticed: filelock takes it for alive."""
    try:
        return psutil.Process(owner.pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_blank(lease: SoftFileLease, beat: int | None) -> bool:
    """Whether the marker is empty, as after a power failure, and the one of `beat`: a fresh one is
    empty for a moment too."""
    path = Path(lease.lock_file)
    return path.is_file() and path.stat().st_size == 0 and _last_beat(lease) == beat


def _last_beat(lease: SoftFileLease) -> int | None:
    try:
        return Path(lease.lock_file).stat().st_mtime_ns
    except OSError:
        return None


def _this_host() -> str:
    """This host's name as a marker has it: filelock adds what tells containers apart."""
    with (
        tempfile.TemporaryDirectory() as folder,
        SoftFileLease(Path(folder) / "lock", lease_duration=SILENCE) as lease,
    ):
        assert lease.owner is not None
        return lease.owner.hostname


def _plain(host: str) -> str:
    return host.split("?")[0]


def _end(folder: Path) -> NoReturn:
    """In the thread that keeps the lock alive: another process may be writing by now."""
    words = (
        f"sdar: the lock of {folder} was lost (another host took this process for dead, or the "
        "file was removed), so it ends before it harms what is written there; run the same "
        "command again to go on\n"
    )
    with contextlib.suppress(OSError):
        os.write(2, words.encode())
    os._exit(LOST_EXIT_CODE)
