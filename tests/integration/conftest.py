"""Fixtures of the integration tests."""

import contextlib
import resource
import signal

import pytest


@pytest.fixture
def file_size_limit():
    """A context in which this process cannot write files beyond so many bytes: a full disk."""

    @contextlib.contextmanager
    def limit(most: int):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)

    return limit
