"""A limit on how long a call may take, also when its thread is stuck in C code."""

import ctypes
import faulthandler
import os
import threading
from types import TracebackType
from typing import Self

from sdar.errors import SdarError

GRACE = 10.0
"""Seconds from the exception to the end of the process."""
STUCK_EXIT_CODE = 70


class Watchdog:
    """`with Watchdog(600, "rank 3: generating"):` — beyond the limit every thread's stack goes to
    stderr and the block ends with an `SdarError` that begins with these words. A block stuck in C
    code never gets it: then the process ends, so that its launcher ends the others.
    """

    def __init__(self, seconds: float, what: str, grace: float = GRACE) -> None:
        self.seconds = seconds
        self.grace = grace
        self.sentence = (
            f"{what} took more than rollout.vllm.timeout ({seconds:g} s): see the stacks above for "
            "what it waited for; raise the key if it was only slow"
        )
        self._left = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._thread = threading.get_ident()
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._left.set()

    def _watch(self) -> None:
        if self._left.wait(self.seconds):
            return
        with self._lock:
            if self._left.is_set():
                return
            faulthandler.dump_traceback(2)  # stderr, whatever sys.stderr is
            # Only an exception's class can be sent to a thread, so the class has the sentence.
            sentence = self.sentence
            error = type("TimedOut", (SdarError,), {"__str__": lambda self: sentence})
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread), ctypes.py_object(error)
            )
        if not self._left.wait(self.grace):
            os.write(2, f"{self.sentence}\n".encode())
            os._exit(STUCK_EXIT_CODE)
