"""Stopping long work when a scheduler says so: finish the step, save and end.

Running the same command again continues it.

SLURM announces the end of a job by a signal: SIGUSR1 some time before the time limit (sbatch
--signal), SIGTERM when the job is cancelled, preempted or out of time. Within `between_steps` such
a signal only raises a flag; the loop asks `stop_requested()` where it can stop, saves, and raises
`Stopped`. Outside, and for a SIGTERM that no SLURM sent, the command unwinds at once, as for
Ctrl-C.

    with between_steps():
        for step in range(start, steps):
            ...
            if stop_requested():
                save(step + 1)
                raise Stopped
"""

import contextlib
import os
import signal
from collections.abc import Iterator

STOPPED_CODE = 75
"""Exit code of a stage that was told to stop and has saved: run it again. EX_TEMPFAIL."""

INTERRUPTED_CODE = 128 + signal.SIGINT
"""Exit code after Ctrl-C."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""What stops a stage. SLURM sends the last two to every process of a job, helpers included."""


class Stopped(BaseException):
    """The loop has saved and ends because it was told to: no error, and nothing may catch it."""


class _State:
    loops = 0
    requested = False


def stop_requested() -> bool:
    """Whether a scheduler wants this process to end: save and raise `Stopped`."""
    return _State.requested


@contextlib.contextmanager
def between_steps() -> Iterator[None]:
    """A block that asks `stop_requested()` often; a scheduler's signal only raises its flag."""
    _State.loops += 1
    try:
        yield
    finally:
        _State.loops -= 1
        _State.requested = _State.requested and _State.loops > 0


def take(number: int) -> bool:
    """Note a signal for the loop that runs; false when it has to end the command at once.

    SLURM may send SIGTERM several times, and kills later anyway: repeats change nothing.
    """
    from_scheduler = number == signal.SIGUSR1 or (
        number == signal.SIGTERM and "SLURM_JOB_ID" in os.environ
    )
    if not (from_scheduler and _State.loops):
        return False
    if not _State.requested:
        # Not print: the signal may have come in the middle of one.
        with contextlib.suppress(OSError):
            os.write(2, b"sdar: told to stop; this step is finished and saved first\n")
    _State.requested = True
    return True


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Block the signals that stop a stage while a helper process is started: it inherits the block
    and calls `leave_to_parent` once it runs."""
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def leave_to_parent() -> None:
    """In a helper process: ignore what stops the job; its parent ends it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
