"""The MLflow store: where it is, its creation, and one parent run per experiment.

MLflow is imported by the functions that need it, never by importing this module.
"""

import contextlib
import fcntl
import getpass
import json
import logging
import os
import shlex
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from sdar.config import ExperimentConfig, Layout
from sdar.errors import SdarError
from sdar.redaction import HIDDEN, has_secret, redact

SQLITE = "sqlite:///"
URI_VARIABLE = "MLFLOW_TRACKING_URI"
# MLflow's pages hide tags that begin with `mlflow.`.
PARENT_TAG = "mlflow.sdar.parent"
ATTEMPT_TAG = "mlflow.sdar.attempt"
MLFLOW_PARENT = "mlflow.parentRunId"
VIEW = "sdar"
REPLACED = " (replaced)"
"""Ends the name of a run that was done again."""
LAST_STAGES = ("compare", "report", "compare_sweep")
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


def recorded_address(config: ExperimentConfig, layout: Layout) -> dict[str, Any]:
    """`address` as it may be written down: without a password."""
    where = address(config, layout)
    return where | {"uri": redact(where["uri"])}


def hand_down(uri: str) -> None:
    """Let the processes that this one starts have a URI whose password no file holds."""
    if has_secret(uri):
        os.environ[URI_VARIABLE] = uri


def whole_uri(uri: str) -> str:
    """A recorded URI with its password, which stands in the environment alone (`URI_VARIABLE`).

    Raises `SdarError` where it does not.
    """
    if HIDDEN not in uri:
        return uri
    given = os.environ.get(URI_VARIABLE, "")
    if redact(given) == uri:
        return given
    raise SdarError(
        f"the password of tracking.uri ({uri}) is not recorded; set {URI_VARIABLE} to the whole "
        "URI, or give the configuration that has it: sdar track FOLDER --config FILE"
    )


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
    uri = whole_uri(where["uri"])
    _answering(uri)
    with locked(where):
        import mlflow

        mlflow.set_tracking_uri(uri)
        client = mlflow.MlflowClient(uri)
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


def end_parent(client: Any, experiment: str, parent: str) -> None:
    """End the parent run where everything is done: a comparison or report is made, and all of its
    runs have finished. Call it under `locked`."""
    wanted = f"tags.`{MLFLOW_PARENT}` = '{parent}'"
    runs = [
        run
        for run in client.search_runs([experiment], filter_string=wanted, max_results=10_000)
        if not str(run.info.run_name).endswith(REPLACED)
    ]
    made = any(run.data.tags.get("stage") in LAST_STAGES for run in runs)
    if made and all(run.info.status == "FINISHED" for run in runs):
        client.set_terminated(parent)


def identity(where: dict[str, Any]) -> tuple[int, int] | None:
    """What tells a database file from another in its place; None for one that is not there, and
    for stores that are no file."""
    if not where["uri"].startswith(SQLITE):
        return None
    try:
        status = Path(where["uri"].removeprefix(SQLITE)).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


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
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def unreachable(where: dict[str, Any], error: BaseException, folder: Path | str = "RUN") -> str:
    """One line: MLflow cannot be written, why, that the run goes on, and what completes it."""
    return (
        f"MLflow at {redact(where['uri'])} cannot be written ({reason(where, error)}); the run "
        f"goes on, its records are complete in its folder; {later(folder)}"
    )


def reason(where: dict[str, Any], error: BaseException) -> str:
    """What MLflow or one of its libraries says, in short and without secrets."""
    said = redact(" ".join(str(error).split()), where["uri"], os.environ.get(URI_VARIABLE, ""))
    return said[:160] or type(error).__name__


def later(folder: Path | str) -> str:
    return f"afterwards `sdar track {shlex.quote(str(folder))}` brings MLflow up to date"


def _answering(uri: str, seconds: float = 3.0) -> None:
    """Raise where no server answers: MLflow's own retries would take minutes."""
    try:
        parsed = urlparse(uri)
        port = parsed.port or (443 if parsed.scheme == "https" else 80)
    except ValueError as error:
        raise SdarError(f"tracking.uri: {redact(uri)} is no URI ({error})") from None
    if parsed.scheme not in ("http", "https"):
        return
    try:
        socket.create_connection((parsed.hostname or "", port), seconds).close()
    except OSError as error:
        raise SdarError(f"no server answers at {parsed.hostname}:{port}: {error}") from None
