"""`sdar ui`: MLflow's pages on this root's store, on the loopback address."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sdar.config import ExperimentConfig, Layout
from sdar.errors import SdarError
from sdar.redaction import has_secret, redact
from sdar.tracking import store
from sdar.web.client import opener

START_SECONDS = 90.0


def serve_ui(
    config: ExperimentConfig,
    layout: Layout,
    port: int = 5000,
    say: Callable[[str], None] = print,
) -> int:
    """Serve MLflow's pages until interrupted; prints the address once they answer.

    Raises `SdarError` when there is nothing to show, MLflow is missing or the port is taken.
    Returns the server's exit status, 0 after Ctrl-C.
    """
    where = store.address(config, layout)
    uri = str(where["uri"])
    if uri.startswith(("http://", "https://")):
        say(f"tracking.uri is a server of its own; open {redact(uri)}")
        return 0
    command = server_command(where, port)
    say("Starting MLflow's pages (some seconds) ...")
    # SIGTERM must end the server too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server = subprocess.Popen(command, env=_environment() | _backend(uri))
    address = f"http://127.0.0.1:{port}"
    try:
        if _await_answer(address, server):
            say(f"MLflow: {_first_page(address, where)}  (Ctrl-C ends it)")
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        server.terminate()
        server.wait()


def server_command(where: dict[str, str | None], port: int) -> list[str]:
    """The command that serves this store, after the checks that can fail early."""
    uri = str(where["uri"])
    database = Path(uri.removeprefix(store.SQLITE))
    if uri.startswith(store.SQLITE) and not database.is_file():
        raise SdarError(
            f"{database}: no runs are recorded yet; run the pipeline first (make demo), with "
            "tracking.enabled true"
        )
    if importlib.util.find_spec("mlflow") is None:
        raise SdarError("mlflow is not installed; pip install 'sdar[pipeline]' brings it")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SdarError(f"port {port} cannot be used ({error}); choose another one") from None
    command = [sys.executable, "-m", "mlflow", "server"]
    if not _backend(uri):
        command += ["--backend-store-uri", uri]
    if where["artifacts"]:
        command += ["--default-artifact-root", str(where["artifacts"])]
    command += f"--host 127.0.0.1 --port {port} --workers 1 --uvicorn-opts".split()
    return [*command, "--log-level warning"]


def _backend(uri: str) -> dict[str, str]:
    """A URI with a password goes by a variable: anybody on the machine may read a command line."""
    uri = store.whole_uri(uri)
    return {"MLFLOW_BACKEND_STORE_URI": uri} if has_secret(uri) else {}


def _environment() -> dict[str, str]:
    return os.environ | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "PYTHONWARNINGS": "ignore",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def _await_answer(address: str, server: "subprocess.Popen[bytes]") -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            opener(address).open(f"{address}/health", timeout=2).close()
        except OSError:
            time.sleep(0.5)
        else:
            return True
    return False


def _first_page(address: str, where: dict[str, str | None]) -> str:
    """The list of this experiment's runs, where its number can be read."""
    import sqlite3
    from contextlib import closing

    uri = str(where["uri"])
    if not uri.startswith(store.SQLITE):
        return address
    try:
        with closing(sqlite3.connect(uri.removeprefix(store.SQLITE))) as database:
            query = "SELECT experiment_id FROM experiments WHERE name = ?"
            row = database.execute(query, (where["experiment"],)).fetchone()
    except sqlite3.Error:
        row = None
    if not row:
        return address
    view = f"workflowType=machine_learning&viewStateShareKey={store.VIEW}"
    return f"{address}/#/experiments/{row[0]}/runs?{view}"
