"""What `sdar ui` refuses, and with which words."""

import socket
from pathlib import Path

import pytest

from sdar.config import Layout, parse_config
from sdar.errors import SdarError
from sdar.tracking import store
from sdar.tracking.ui import serve_ui, server_command


def where(root: Path) -> dict[str, str | None]:
    return store.address(parse_config({}), Layout(root, "fake"))


def test_nothing_recorded_yet(tmp_path: Path) -> None:
    with pytest.raises(SdarError, match=r"mlflow\.db: no runs are recorded yet; run the pipeline"):
        serve_ui(parse_config({}), Layout(tmp_path, "fake"))


def test_a_port_in_use(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(SdarError, match=rf"port {port} cannot be used .*choose another"):
            server_command(where(tmp_path), port)


def test_the_server_stays_on_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = server_command(where(tmp_path), port)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert f"sqlite:///{tmp_path}/mlflow.db" in command


def test_a_tracking_server_of_its_own_is_named(tmp_path: Path) -> None:
    said: list[str] = []
    config = parse_config({"tracking": {"uri": "http://mlflow.example:5000"}})
    assert serve_ui(config, Layout(tmp_path, "fake"), say=said.append) == 0
    assert said == ["tracking.uri is a server of its own; open http://mlflow.example:5000"]
