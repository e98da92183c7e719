"""The fake cluster, and experiments that ran on it undisturbed.

With pytest-xdist each worker has a cluster of its own; what ran undisturbed is made once for all.
"""

import fcntl
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "workflow"))

from driving import POLICY, Experiment
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
    # A CI that ends the tests sends SIGTERM: leave nothing behind, as after Ctrl-C.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with running_cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def finished(
    repository: Path, cluster: FakeCluster, tmp_path_factory: pytest.TempPathFactory
) -> Experiment:
    """The experiment after an undisturbed run on the cluster."""

    def make(folder: Path) -> None:
        folder.mkdir()
        experiment = Experiment(copy_workflow(repository, folder), cluster)
        experiment.configure()
        output = experiment.run("all", seconds=2400)
        (folder / "output.txt").write_text(output)
        (folder / "states.json").write_text(json.dumps(cluster.states()))

    folder = _made_once(tmp_path_factory, "finished", make)
    experiment = Experiment(folder, cluster)
    experiment.output = (folder / "output.txt").read_text()
    experiment.states = json.loads((folder / "states.json").read_text())
    return experiment


@pytest.fixture(scope="session")
def on_both_nodes(finished: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A copy of it in which SDAR was trained by a rank on each node, undisturbed."""

    def make(folder: Path) -> None:
        experiment = finished.copy_without_run(folder)
        experiment.configure(nodes=2)
        experiment.run(str(POLICY), seconds=1200)

    folder = _made_once(tmp_path_factory, "on-both-nodes", make)
    return Experiment(folder, finished.cluster)


@pytest.fixture
def untrained(finished: Experiment, tmp_path: Path) -> Iterator[Experiment]:
    """A copy of it in which SDAR has not been trained yet."""
    experiment = finished.copy_without_run(tmp_path / "project")
    experiment.configure()
    yield experiment
    experiment.abandon()


def _made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first of several test processes makes, and the others wait for."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, made = base / name, base / f"{name}.made"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            make(folder)
            made.touch()
    return folder
