"""Brings MLflow up to date with a run's folder, in a process beside the job.

    python -m sdar.tracking.mirror FOLDER            # once: send what MLflow lacks
    python -m sdar.tracking.mirror --follow FOLDER   # while the parent process lives

The folder decides what MLflow shows. What was sent is known (MLflow itself is asked for each
metric's steps), so this may be killed, run twice or run much later.
"""

import argparse
import contextlib
import fcntl
import io
import json
import os
import re
import select
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from sdar.config import Layout
from sdar.files import lines
from sdar.files.digest import json_digest
from sdar.files.whole import read_json, write_json
from sdar.interruption import leave_to_parent
from sdar.redaction import redact
from sdar.tracking import describe, store

SYNC_SECONDS = 15.0
LARGEST_BATCH = 1000  # MLflow's limit of metrics in one call
LARGEST_COPY = 64 * 2**20
LONGEST_KEY = 250  # MLflow's limit
LOCK = ".mlflow.lock"
_FORBIDDEN = re.compile(r"[^\w./ :-]")


class Mirror:
    """One run's folder and its MLflow run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = read_json(folder / "tracking.json")
        if not self.spec:
            raise FileNotFoundError(f"{folder}: no tracking.json, so no run was recorded here")
        self.where = self.spec["store"]
        self.client: Any = None
        self.opened: tuple[int, int] | None = None
        self.state: dict[str, Any] = read_json(folder / "mlflow.json")
        self.sent: set[tuple[str, int]] = set()

    def sync(self) -> None:
        """Send everything MLflow does not have yet."""
        if self.is_lost():
            raise FileNotFoundError("the store was deleted or replaced")
        self._open()
        self._send_metrics()
        self._send_outbox()

    def end(self) -> None:
        """Send the rest and close the run with the status in its folder."""
        self.spec = read_json(self.folder / "tracking.json")
        self.sync()
        status = self.spec["status"]
        for name in ("config.yaml", "provenance.json"):
            if (self.folder / name).is_file():
                self.client.log_artifact(self.run_id, str(self.folder / name))
        # A recorder that left no status was killed, some time after it last wrote.
        ended = int(1000 * (self._last_written() if status == "RUNNING" else self.spec["written"]))
        status = "KILLED" if status == "RUNNING" else status
        self.client.set_terminated(self.run_id, status, ended)
        with store.locked(self.where):
            store.end_parent(self.client, self.state["experiment_id"], self.state["parent_run_id"])

    def _last_written(self) -> float:
        """When the run's records were last written, in seconds."""
        names = ("metrics.jsonl", "timings.jsonl", "outbox.jsonl", "tracking.json")
        return max(p.stat().st_mtime for name in names if (p := self.folder / name).exists())

    def is_lost(self) -> bool:
        """Whether the database that was opened is no more the one in its place."""
        return self.client is not None and store.identity(self.where) != self.opened

    def forget(self) -> None:
        """Ask the store anew what it has: it may have lost something."""
        self.client = None
        self.sent.clear()

    @property
    def run_id(self) -> str:
        return str(self.state["run_id"])

    def _open(self) -> None:
        if self.client is not None:
            return
        client = store.connect(self.where)
        experiment = store.experiment_id(client, self.where)
        with store.locked(self.where):
            parent = store.parent_run(client, self.where)
        attempt = self.spec["attempt"]
        run = store.tagged_run(client, experiment, store.ATTEMPT_TAG, attempt)
        if run is None:
            self._retire(client)
            run = self._create(client, experiment, parent)
        else:
            client.update_run(run.info.run_id, status="RUNNING")
        if self.state.get("run_id") != run.info.run_id:
            self.state = {"outbox": 0}
        self.state |= {
            "uri": redact(self.where["uri"]),
            "experiment_id": experiment,
            "parent_run_id": parent,
            "run_id": run.info.run_id,
        }
        self._save()
        for key in run.data.metrics:
            history = client.get_metric_history(run.info.run_id, key)
            self.sent.update((key, point.step) for point in history)
        client.update_run(parent, status="RUNNING")
        self.client, self.opened = client, store.identity(self.where)

    def _create(self, client: Any, experiment: str, parent: str) -> Any:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        provenance = read_json(self.folder / "provenance.json")
        commit = provenance.get("git", {}).get("commit")
        tags = self.spec["tags"] | {
            store.MLFLOW_PARENT: parent,
            store.ATTEMPT_TAG: self.spec["attempt"],
            "folder": str(self.folder),
        }
        tags |= store.source_tags(f"sdar {self.spec['kind'].replace('_', '-')}", commit)
        began = int(1000 * self.spec["started"])
        run = client.create_run(experiment, began, tags, run_name=self.spec["name"])
        parameters = [Param(key, value) for key, value in self.spec["parameters"].items()]
        for start in range(0, len(parameters), 100):
            client.log_batch(run.info.run_id, params=parameters[start : start + 100])
        layout = Layout(Path(self.spec["root"]), self.spec["experiment"])
        inputs = [
            DatasetInput(
                Dataset(
                    name=each["name"],
                    digest=each["digest"],
                    source_type="local",
                    source=json.dumps({"uri": each["path"]}),
                    profile=json.dumps(each["splits"]),
                ),
                [InputTag("mlflow.data.context", each["context"])],
            )
            for each in describe.datasets(self.spec["kind"], layout)
        ]
        if inputs:
            client.log_inputs(run.info.run_id, datasets=inputs)
        return run

    def _retire(self, client: Any) -> None:
        """An earlier run of this folder keeps its numbers; its name says that it was replaced."""
        from mlflow.exceptions import MlflowException

        earlier = self.state.get("run_id")
        if not earlier:
            return
        with contextlib.suppress(MlflowException):
            run = client.get_run(earlier)
            status = "KILLED" if run.info.status == "RUNNING" else None
            client.update_run(earlier, status=status, name=self.spec["name"] + store.REPLACED)

    def _send_metrics(self) -> None:
        from mlflow.entities import Metric

        timings = lines.read(self.folder / "timings.jsonl")
        at = {record["step"]: record["at"] for record in timings if "at" in record}
        now = time.time()
        batch: list[Any] = []
        metrics = lines.read(self.folder / self.spec.get("metrics", "metrics.jsonl"))
        for prefix, rows in (("", metrics), ("time/", timings)):
            for row in rows:
                step = row["step"]
                moment = int(1000 * at.get(step, now))
                for key, value in row.items():
                    if key in ("step", "at") or not isinstance(value, int | float):
                        continue
                    key = _FORBIDDEN.sub("_", key if "/" in key else prefix + key)[:LONGEST_KEY]
                    if (key, step) not in self.sent:
                        batch.append(Metric(key, float(value), moment, step))
        for start in range(0, len(batch), LARGEST_BATCH):
            part = batch[start : start + LARGEST_BATCH]
            self.client.log_batch(self.run_id, metrics=part)
            self.sent.update((metric.key, metric.step) for metric in part)

    def _send_outbox(self) -> None:
        path = self.folder / "outbox.jsonl"
        written = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        for number, line in enumerate(written):
            if number < self.state["outbox"]:
                continue
            if not line.endswith(b"\n"):
                break
            self._deliver(json.loads(line))
            self.state["outbox"] = number + 1
            self._save()

    def _deliver(self, message: dict[str, Any]) -> None:
        if message["do"] == "episode":
            from sdar.tracking.traces import log_episode

            identity = _episode_identity(message)
            seen = self.state.setdefault("episodes", [])
            if identity not in seen:
                log_episode(self.client, self.state, self.spec, message)
                seen.append(identity)
            return
        path = Path(message["path"])
        if message["do"] == "policy":
            self._register(path, message["step"])
        elif path.is_dir():
            self.client.log_artifacts(self.run_id, str(path), message["into"])
        elif path.is_file():
            self.client.log_artifact(self.run_id, str(path), message["into"])

    def _register(self, path: Path, step: int | None) -> None:
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        model = self.client.create_logged_model(
            self.state["experiment_id"],
            # MLflow forbids slashes and points in the names of models.
            name=self.spec["name"].replace("/", "_").replace(".", "_"),
            source_run_id=self.run_id,
            tags={"path": str(path), "bytes": str(size)},
            params=_architecture(path),
            model_type="policy",
        )
        if size <= LARGEST_COPY:
            self.client.log_model_artifacts(model.model_id, str(path))
        self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        self.client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step or 0)])

    def _save(self) -> None:
        write_json(self.folder / "mlflow.json", self.state)


def _episode_identity(message: dict[str, Any]) -> str:
    """A resumed run repeats steps, a repeated evaluation its episodes: show each once."""
    episode = message["episode"]
    if message["step"] is not None and "slot" in episode:
        return f"{message['step']}/{episode['slot']}"
    return json_digest(episode)[:16]


def _architecture(path: Path) -> dict[str, str]:
    wanted = ("model_type", "num_hidden_layers", "hidden_size", "vocab_size", "dtype")
    config = read_json(path / "config.json")
    return {key: str(config[key]) for key in wanted if key in config}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Bring MLflow up to date with a run's folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--follow", action="store_true", help="go on while the parent lives")
    parser.add_argument("--again", action="store_true", help="the store was lost; say so no more")
    options = parser.parse_args(arguments)
    folder: Path = options.folder.resolve()
    with (folder / LOCK).open("ab") as lock:
        # A killed job's mirror may still be sending its last steps.
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _follow(folder, options.again) if options.follow else _once(folder)


def _once(folder: Path) -> int:
    try:
        mirror = Mirror(folder)
        mirror.end()
    except Exception as error:
        print(f"{folder}: {redact(' '.join(str(error).split()))}", file=sys.stderr)
        return 1
    return 0


def _follow(folder: Path, warned: bool) -> int:
    parent = os.getppid()
    # Signals reach the whole group or job; the stage decides when this ends.
    leave_to_parent()
    os.setpriority(os.PRIO_PROCESS, 0, max(5, os.getpriority(os.PRIO_PROCESS, 0)))
    terminal = os.fdopen(os.dup(2), "w", errors="backslashreplace")
    with (folder / "mlflow.log").open("a" if warned else "w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 2)
    mirror = Mirror(folder)
    sys.stderr = _Redacted(sys.stderr, os.environ.get(store.URI_VARIABLE, ""))
    ended, hopeless = False, warned
    while True:
        try:
            mirror.end() if ended else mirror.sync()
            hopeless = False
        except Exception as error:
            traceback.print_exc()
            if not warned:
                warning = f"warning: {store.unreachable(mirror.where, error, folder)}"
                print(warning, file=terminal, flush=True)
            warned = True
            if mirror.is_lost():
                # MLflow keeps a database open for as long as a process lives, deleted or not:
                # another process opens the new one.
                ended = ended or _wait(parent)
                if ended and hopeless:
                    return 1  # opened anew, and it failed from the first: so would the next one
                _start_again(folder, terminal.fileno(), ended)
            mirror.forget()
            if ended:
                return 1
        if ended:
            return 0
        ended = _wait(parent)


def _start_again(folder: Path, terminal: int, ended: bool) -> NoReturn:
    """Become another such process, with the same parent, pipe and terminal."""
    os.dup2(terminal, 2)
    if ended:
        # What the parent said is read: an empty input says the same.
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    command = [sys.executable, "-m", "sdar.tracking.mirror", "--follow", "--again", str(folder)]
    os.execv(sys.executable, command)


class _Redacted(io.TextIOBase):
    """Standard error without the passwords that libraries quote."""

    def __init__(self, stream: Any, uri: str) -> None:
        self._stream = stream
        self._uri = uri

    def write(self, text: str) -> int:
        self._stream.write(redact(text, self._uri))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


def _wait(parent: int) -> bool:
    """Wait for the next round; True when the job has said so, closed its pipe or died."""
    deadline = time.monotonic() + SYNC_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([sys.stdin], [], [], min(left, 5.0))
        if ready or os.getppid() != parent:
            return True
    return False


if __name__ == "__main__":
    sys.exit(main())
