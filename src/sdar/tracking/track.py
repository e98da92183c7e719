"""`sdar track`: MLflow is made to say what the folders of runs say, at any time after."""

import fcntl
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdar.config import ExperimentConfig, Layout
from sdar.errors import SdarError
from sdar.files.whole import read_json
from sdar.tracking import store
from sdar.tracking.mirror import LOCK, Mirror


def track(folder: Path, config: ExperimentConfig | None, say: Callable[[str], None]) -> None:
    """Send MLflow what it lacks of all runs recorded in `folder` or below it.

    `folder` may be the results of an experiment: its runs are meant. `config` names another store
    than the one recorded, or the password of that one. Doing it twice changes nothing. Raises
    `SdarError` where no run was recorded, or a store cannot be written.
    """
    runs = recorded_runs(folder)
    if importlib.util.find_spec("mlflow") is None:
        raise SdarError("mlflow is not installed; pip install 'sdar[pipeline]' brings it")
    for run in runs:
        say(f"{run}: {_complete(run, config)}")


def recorded_runs(folder: Path) -> list[Path]:
    """The folders of runs in and below `folder`, or below the runs of the experiment whose results
    it holds."""
    beside = folder.resolve().parent.parent / "runs" / folder.resolve().name
    # What an evaluation leaves for MLflow lies beside its results.
    evaluating = folder.parent / "evaluating" if folder.name == "evaluation" else folder
    for place in (folder, evaluating, beside):
        if found := sorted(path.parent for path in place.rglob("tracking.json")):
            return found
    raise SdarError(
        f"{folder}: no run was recorded here (no tracking.json); give the folder of a run or of an "
        "experiment, such as runs/EXPERIMENT/sdar/seed-0 or runs/EXPERIMENT"
    )


def _complete(run: Path, config: ExperimentConfig | None) -> str:
    if not read_json(run / "tracking.json").get("store"):
        raise SdarError(f"{run / 'tracking.json'}: damaged; start the run again, which writes it")
    with (run / LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "under way, and sent to MLflow as it goes"
        mirror = Mirror(run)
        if config is not None:
            mirror.where = _store_of(config, mirror.spec)
        try:
            mirror.end()
        except SdarError:
            raise
        except Exception as error:
            raise SdarError(
                f"{run}: MLflow at {mirror.where['uri']} cannot be written "
                f"({store.reason(mirror.where, error)}); start or correct it, then run this again"
            ) from None
    return f"{mirror.spec['name']} is in MLflow"


def _store_of(config: ExperimentConfig, spec: dict[str, Any]) -> dict[str, Any]:
    store.hand_down(config.tracking.uri)
    return store.recorded_address(config, Layout(Path(spec["root"]), spec["experiment"]))
