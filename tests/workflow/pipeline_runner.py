"""Running programs of this environment in a copy of the workflow."""

import os
import shutil
import subprocess
import sys
from pathlib import Path


def copy_workflow(repository: Path, folder: Path) -> Path:
    """Copy what Snakemake reads (not the package, which is installed)."""
    for name in ("workflow", "config", "profiles"):
        shutil.copytree(repository / name, folder / name)
    for name in ("Snakefile", "dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(repository / name, folder / name)
    return folder


def run(
    folder: Path, program: str, *arguments: str, seconds: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run a program of this environment in a folder; stdout and stderr come together."""
    return subprocess.run(
        [str(Path(sys.executable).parent / program), *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=seconds,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
    )


def snakemake(
    folder: Path, *arguments: str, seconds: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run Snakemake with the local profile."""
    return run(folder, "snakemake", "--profile", "profiles/local", *arguments, seconds=seconds)
