"""What Snakemake takes where nothing is left to do: its own time, without a job."""

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from passes_ratios import Measured, spread
from step_protocol import python_with

NOTHING = "Nothing to be done"


def noop_seconds(finished: Path | None, options: argparse.Namespace) -> Measured:
    """Seconds of `snakemake -- all` in a checkout where the experiment is complete, and of its dry
    run. Both read the configuration, plan the jobs and find that none is needed."""
    if finished is None:
        reason = "no --finished CHECKOUT was given, in which the minute experiment is complete"
        return Measured(None, reason=reason)
    if not (finished / "Snakefile").is_file():
        return Measured(None, reason=f"--finished {finished}: no Snakefile there; give a checkout")
    experiment = ["--configfile", str(options.finished_config)]
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/local", "--nolock"]
    command += ["--cores", "1", *experiment]
    seconds: dict[str, list[float]] = {"run": [], "dry run": []}
    used: list[float] = []
    environment = python_with((finished / "src").resolve())
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    # The dry run comes first: where something is left to do, nothing is started.
    for number in range(options.rounds + 1):
        for name, more in (("dry run", ["--dry-run"]), ("run", [])):
            start, before = time.perf_counter(), _children()
            done = subprocess.run(
                [*command, *more, "--", "all"],
                cwd=finished,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                check=False,
                env=environment,
            )
            took, cpu = time.perf_counter() - start, _children() - before
            said = done.stdout + done.stderr
            if done.returncode or NOTHING not in said:
                last = said.strip().splitlines()[-1:] or ["nothing"]
                reason = f"--finished {finished}: the {name} found something to do, or failed: "
                return Measured(None, reason=reason + last[0][:200])
            if number:  # the first reads files from the disk
                seconds[name].append(took)
                if name == "run":
                    used.append(cpu)
    return Measured(
        spread(seconds["run"]), spread(used), details={"dry_run": spread(seconds["dry run"])}
    )


def _children() -> float:
    """Processor seconds of the processes that ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
