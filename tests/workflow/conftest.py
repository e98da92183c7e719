"""A place to run the pipeline in: its own copy of the workflow, nothing of this checkout's data."""

from pathlib import Path

import pytest
from pipeline_runner import copy_workflow


@pytest.fixture(scope="session", autouse=True)
def needs_snakemake() -> None:
    pytest.importorskip("snakemake", reason="the pipeline extra is not installed")


@pytest.fixture
def project(repository: Path, tmp_path: Path) -> Path:
    return copy_workflow(repository, tmp_path)
