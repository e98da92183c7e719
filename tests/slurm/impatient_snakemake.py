"""Snakemake that asks its SLURM executor for the state of jobs every second.

The plugin waits 3 s, then 13, 23, ... up to three minutes between two questions, to spare a
cluster's controller; no setting changes that, and most of a test's time would be this wait.
"""

import signal

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

RemoteExecutor.next_seconds_between_status_checks = property(
    lambda executor: 1.0, lambda executor, seconds: None
)

if __name__ == "__main__":
    # Tests that run in a shell's background have inherited that Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
