"""The fake cluster, and one experiment that ran on it undisturbed."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "workflow"))

from driving import Experiment
from fake_cluster import REMEDY, FakeCluster, missing_programs, running_cluster
from pipeline_runner import copy_workflow


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeCluster]:
    """A SLURM cluster of two nodes, for as long as the tests last."""
    missing = missing_programs()
    if missing:
        pytest.skip(f"SLURM is not installed ({', '.join(missing)}): {REMEDY}")
    pytest.importorskip(
        "snakemake_executor_plugin_slurm", reason="the pipeline extra is not installed"
    )
    with running_cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="session")
def finished(
    repository: Path, cluster: FakeCluster, tmp_path_factory: pytest.TempPathFactory
) -> Experiment:
    """The experiment after an undisturbed run on the cluster."""
    folder = copy_workflow(repository, tmp_path_factory.mktemp("finished"))
    experiment = Experiment(folder, cluster)
    experiment.configure()
    experiment.output = experiment.run("all", seconds=1200)
    experiment.states = cluster.states()
    return experiment


@pytest.fixture
def untrained(finished: Experiment, tmp_path: Path) -> Iterator[Experiment]:
    """A copy of it in which SDAR has not been trained yet."""
    experiment = finished.copy_without_run(tmp_path / "project")
    yield experiment
    experiment.abandon()
