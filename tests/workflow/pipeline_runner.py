"""Running programs of this environment in a copy of the workflow."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def copy_workflow(repository: Path, folder: Path) -> Path:
    """Copy what Snakemake reads (not the package, which is installed)."""
    for name in ("workflow", "config", "profiles"):
        shutil.copytree(repository / name, folder / name)
    for name in ("Snakefile", "dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(repository / name, folder / name)
    return folder


def run(
    folder: Path,
    program: str,
    *arguments: str,
    seconds: float = 1800,
    environment: Mapping[str, str] = os.environ,
) -> subprocess.CompletedProcess[str]:
    """Run a program of this environment in a folder; stdout and stderr come together.

    After `seconds` it is ended with all that it started, and TimeoutExpired raised.
    """
    here = Path(sys.executable).parent
    command = [str(here / program), *arguments]
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**environment, "PATH": f"{here}{os.pathsep}{environment['PATH']}"},
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return subprocess.CompletedProcess(command, process.returncode, output)


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Snakemake with the local profile."""
    return run(folder, "snakemake", "--profile", "profiles/local", *arguments)
