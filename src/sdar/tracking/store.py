"""The MLflow store: where it is, its creation, and one parent run per experiment.

MLflow is imported by the functions that need it, never by importing this module.
"""

import contextlib
import fcntl
import getpass
import json
import logging
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from sdar.config import ExperimentConfig, Layout
from sdar.errors import SdarError

SQLITE = "sqlite:///"
# MLflow's pages hide tags that begin with `mlflow.`.
PARENT_TAG = "mlflow.sdar.parent"
ATTEMPT_TAG = "mlflow.sdar.attempt"
MLFLOW_PARENT = "mlflow.parentRunId"
VIEW = "sdar"
HEADLINES = ("train/success", "gap/mean", "gate/mean")
"""Columns of MLflow's list of runs, before the success on each panel."""


def address(config: ExperimentConfig, layout: Layout) -> dict[str, Any]:
    """Where MLflow keeps its records: `uri`, `artifacts` (None: the server decides), `lock`, names,
    and the panels whose success its list of runs shows.

    A relative `sqlite:///` path lies under the root, and so do the artifacts (`mlartifacts/`).
    """
    root = layout.root.resolve()
    uri = config.tracking.uri
    if uri.startswith(SQLITE) and not uri.startswith(SQLITE + "/"):
        uri = SQLITE + str(root / uri.removeprefix(SQLITE))
    local = uri.startswith(SQLITE)
    return {
        "uri": uri,
        "artifacts": (root / "mlartifacts").as_uri() if local else None,
        "lock": str(layout.runs.parent.resolve() / ".mlflow.lock"),
        "experiment": config.tracking.experiment or layout.experiment,
        "parent": layout.experiment,
        "panels": list(config.evaluation.panels),
    }


def quieten() -> None:
    """Settings to make before MLflow is imported: no telemetry, no long retries, few messages."""
    for key, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(key, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def connect(where: dict[str, Any]) -> Any:
    """An `MlflowClient` on the store, which is made or migrated when needed. Raises what MLflow
    raises when the store is out of reach."""
    quieten()
    _answering(where["uri"])
    with locked(where):
        import mlflow

        mlflow.set_tracking_uri(where["uri"])
        client = mlflow.MlflowClient(where["uri"])
        experiment_id(client, where)
        return client


def experiment_id(client: Any, where: dict[str, Any]) -> str:
    """The id of the MLflow experiment; made, or brought back from the bin, when needed."""
    name = where["experiment"]
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        artifacts = where["artifacts"]
        location = f"{artifacts}/{name}" if artifacts else None
        tags = experiment_tags(where.get("panels", ()))
        return str(client.create_experiment(name, artifact_location=location, tags=tags))
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


def experiment_tags(panels: Iterable[str]) -> dict[str, str]:
    """Tags that make MLflow's pages open on a flat list of all runs by name, with these columns.

    Without the kind, an experiment that has traces opens as a chat application.
    `?viewStateShareKey=sdar` opens the view.
    """
    successes = [f"{panel}/success" for panel in panels]
    columns = [f"attributes.`{name}`" for name in ("Created", "Duration")]
    columns += [f"tags.`{name}`" for name in ("stage", "method", "seed")]
    columns += [f"metrics.`{name}`" for name in (*HEADLINES, *successes)]
    view = {
        "orderByKey": "tags.`mlflow.runName`",
        "orderByAsc": True,
        "searchFilter": "",
        "selectedColumns": columns,
    }
    return {
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW}": json.dumps(view),
    }


def parent_run(client: Any, where: dict[str, Any]) -> str:
    """The id of the experiment's parent run, made when missing. Call it under `locked`."""
    experiment = experiment_id(client, where)
    name = where["parent"]
    if run := tagged_run(client, experiment, PARENT_TAG, name):
        return str(run.info.run_id)
    tags = {PARENT_TAG: name, "experiment": name, "stage": "experiment"} | source_tags("sdar", None)
    run = client.create_run(experiment, run_name=f"experiment {name}", tags=tags)
    # It groups its children and computes nothing: never shown as still running.
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def tagged_run(client: Any, experiment: str, tag: str, value: str) -> Any | None:
    """The newest run of an MLflow experiment with this tag, or None."""
    wanted = f"tags.`{tag}` = '{value}'"
    return next(iter(client.search_runs([experiment], filter_string=wanted, max_results=1)), None)


def source_tags(command: str, commit: str | None) -> dict[str, str]:
    """The tags behind the columns Source and Version of MLflow's list of runs."""
    tags = {
        "mlflow.source.name": command,
        "mlflow.source.type": "LOCAL",
        "mlflow.user": getpass.getuser(),
    }
    if commit:
        tags["mlflow.source.git.commit"] = commit
    return tags


@contextlib.contextmanager
def locked(where: dict[str, Any]) -> Iterator[None]:
    """Hold the lock of this root: one process at a time makes tables or the parent run."""
    path = Path(where["lock"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def unreachable(where: dict[str, Any], error: BaseException) -> str:
    """One line: MLflow cannot be written, why, and that the run goes on."""
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return (
        f"MLflow at {where['uri']} cannot be written ({reason}); the run goes on, its records are "
        "complete in its folder"
    )


def _answering(uri: str, seconds: float = 3.0) -> None:
    """Raise where no server answers: MLflow's own retries would take minutes."""
    parsed = urlparse(uri)
    if parsed.scheme not in ("http", "https"):
        return
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    try:
        socket.create_connection((parsed.hostname or "", port), seconds).close()
    except OSError as error:
        raise SdarError(f"no server answers at {parsed.hostname}:{port}: {error}") from None
