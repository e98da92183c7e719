"""The record of one run: `metrics.jsonl` first, MLflow from it.

Everything is written to the run's folder, step by step, and forced to disk. A second process
(`sdar.tracking.mirror`) reads the folder and brings MLflow up to date every few seconds: training
neither waits for MLflow, nor imports it, nor stops when it is down.

    with RunRecorder(folder, config=config, layout=layout, kind="train", name="sdar/seed-0") as run:
        run.truncate(first_step)
        for step in range(first_step, steps):
            run.metrics(step, {"train/success": 0.5})
            run.timings(step, {"rollout_s": 3.2})

Files: `metrics.jsonl` (a function of the run alone), `timings.jsonl` (seconds, memory, the time),
`tracking.json` (what the run is), `outbox.jsonl` (artifacts and episodes for MLflow), `mlflow.json`
(the mirror's: its run id and what it has sent), `mlflow.log` (the mirror's messages).
"""

import contextlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from sdar.config import ExperimentConfig, Layout
from sdar.config.stages import Stage
from sdar.files import lines
from sdar.files.digest import json_digest
from sdar.files.whole import finite, read_json, write_bytes, write_json
from sdar.interruption import Stopped, held_back
from sdar.tracking import describe, store

Status = Literal["FINISHED", "FAILED", "KILLED"]
FINISH_SECONDS = 120.0
log = logging.getLogger("sdar.tracking")


class RunRecorder:
    """Records one run in `folder`; a context manager.

    Args:
        folder: the run's folder (made if missing).
        config: the resolved configuration; what `kind` depends on becomes parameters.
        kind: the stage.
        name: as in MLflow's list of runs, such as `sdar/seed-0`.
        parameters: more parameters, such as the steps of a sweep.
        results: where `metrics.jsonl` lies, if not in `folder`.
        tags: more tags; `method` and `seed` are read from a name like `sdar/seed-0`.

    On ranks other than 0 (`RANK` in the environment) nothing is written. Leaving by an exception
    marks the run FAILED (KILLED on Ctrl-C or when told to stop); entering the same folder again
    with the same configuration continues it.

    Raises `SdarError` when a record cannot be written to disk; never because of MLflow.
    """

    def __init__(
        self,
        folder: Path,
        *,
        config: ExperimentConfig,
        layout: Layout,
        kind: Stage,
        name: str,
        parameters: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
        results: Path | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.results = self.folder if results is None else Path(results)
        self.not_finite = 0
        """Number of values so far that were not finite, and are null in the file."""
        self._active = int(os.environ.get("RANK", "0")) == 0
        self._enabled = config.tracking.enabled
        self._mirror: subprocess.Popen[bytes] | None = None
        self._done = False
        self._uri = config.tracking.uri
        self._written: dict[Path, list[bytes]] = {self.metrics_path: [], self.timings_path: []}
        self._spec = _spec(config, layout, kind, name, parameters or {}, tags or {})
        self._spec["metrics"] = os.path.relpath(self.metrics_path, self.folder)

    @property
    def metrics_path(self) -> Path:
        return self.results / "metrics.jsonl"

    @property
    def timings_path(self) -> Path:
        return self.folder / "timings.jsonl"

    def __enter__(self) -> Self:
        if not self._active:
            return self
        for path in (self.folder, self.results):
            path.mkdir(parents=True, exist_ok=True)
        if not self._enabled:
            return self
        self._continue_or_begin()
        if importlib.util.find_spec("mlflow") is None:
            log.warning(
                "MLflow is not installed, so this run is recorded in %s only; "
                "pip install 'sdar[pipeline]' brings it, and %s",
                self.folder,
                store.later(self.folder),
            )
            return self
        store.hand_down(self._uri)
        self._mirror = _start_mirror(self.folder)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish("FINISHED")
        else:
            self.finish("KILLED" if issubclass(kind, KeyboardInterrupt | Stopped) else "FAILED")

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Append what this step computed: numbers that are a function of the run alone."""
        self._append(self.metrics_path, step, values)

    def timings(self, step: int, values: Mapping[str, Any]) -> None:
        """Append what this step cost: seconds, tokens per second, memory. Adds the time of day."""
        self._append(self.timings_path, step, {**values, "at": round(time.time(), 3)})

    def truncate(self, step: int) -> None:
        """Drop the records of `step` and later, before the run goes on from there."""
        if self._active:
            for path in (self.metrics_path, self.timings_path):
                lines.truncate(path, step)

    def keep(
        self, folder: Path, step: int | None = None, timings: Mapping[str, Any] | None = None
    ) -> None:
        """Write a copy of the records into a new checkpoint. Restores what something else has
        changed meanwhile.

        A step's timings are recorded when its checkpoint is written: `timings` of `step` are what
        is known of them before.
        """
        line = ""
        if step is not None:
            line, _ = lines.encode(step, {**(timings or {}), "at": round(time.time(), 3)})
        for path, kept in self._written.items():
            data = b"".join(kept)
            if not path.is_file() or path.read_bytes() != data:
                log.warning("%s has been changed by something else: it is restored", path)
                write_bytes(path, data)
            last = line.encode() if path == self.timings_path else b""
            (folder / path.name).write_bytes(data + last)

    def resume(self, checkpoint: Path | None, step: int) -> None:
        """Take up the records of the steps before `step` as `keep` wrote them into a checkpoint, or
        begin with none. So they have each of these steps once, whatever has happened to them."""
        if not self._active:
            return
        for path in self._written:
            kept = lines.sound(checkpoint / path.name, step) if checkpoint else []
            own = lines.sound(path, step)
            # Timings are complete in the run's own file alone, and no two runs have the same.
            same = (
                lines.steps(own) == lines.steps(kept) if path == self.timings_path else own == kept
            )
            if same:
                kept = own
            elif checkpoint:
                log.warning("%s is not what it was: it is restored from %s", path, checkpoint)
            write_bytes(path, b"".join(kept))
            self._written[path] = kept

    def artifact(self, path: Path, artifact_path: str | None = None) -> None:
        """Copy a file or a folder to MLflow, into its folder `artifact_path`."""
        self._send({"do": "artifact", "path": str(Path(path).resolve()), "into": artifact_path})

    def policy(self, path: Path, step: int | None = None) -> None:
        """Register an exported policy: copied when it is small, by its path when it is not."""
        self._send({"do": "policy", "path": str(Path(path).resolve()), "step": step})

    def episodes(self, episodes: Iterable[Mapping[str, Any]], step: int | None = None) -> None:
        """Show sampled episodes as traces: one span per episode, below it one per turn.

        Keys of an episode and of its turns: see `sdar.tracking.traces.episode_record`.
        """
        for episode in episodes:
            self._send({"do": "episode", "step": step, "at": time.time(), "episode": dict(episode)})

    def finish(self, status: Status = "FINISHED") -> None:
        """End the run and wait (two minutes at most) until MLflow has it. Repeated: no effect."""
        if not self._active or self._done:
            return
        self._done = True
        if self.not_finite:
            log.warning(
                "%d values were not finite and stand as null in %s",
                self.not_finite,
                self.metrics_path,
            )
        if not self._enabled:
            return
        self._write_spec(status)
        if self._mirror is not None:
            _await_mirror(self._mirror, self.folder)

    def _append(self, path: Path, step: int, values: Mapping[str, Any]) -> None:
        if not self._active:
            return
        line, lost = lines.encode(step, values)
        lines.append(path, line)
        self._written[path].append(line.encode())
        if lost and not self.not_finite:
            log.warning("step %d: a value is not finite; it stands as null in %s", step, path)
        self.not_finite += lost

    def _send(self, message: dict[str, Any]) -> None:
        if self._active and self._enabled:
            line = json.dumps(finite(message), ensure_ascii=False, default=str) + "\n"
            lines.append(self.folder / "outbox.jsonl", line)

    def _continue_or_begin(self) -> None:
        earlier = read_json(self.folder / "tracking.json")
        same = earlier.get("digest") == self._spec["digest"]
        if same and earlier.get("status") != "FINISHED":
            self._spec |= {key: earlier[key] for key in ("attempt", "started")}
        else:
            self._spec |= {"attempt": uuid.uuid4().hex, "started": round(time.time(), 3)}
            (self.folder / "outbox.jsonl").unlink(missing_ok=True)
        self._write_spec("RUNNING")

    def _write_spec(self, status: str) -> None:
        self._spec |= {"status": status, "written": round(time.time(), 3)}
        write_json(self.folder / "tracking.json", self._spec)


def _spec(
    config: ExperimentConfig,
    layout: Layout,
    kind: Stage,
    name: str,
    parameters: Mapping[str, Any],
    tags: Mapping[str, Any],
) -> dict[str, Any]:
    flat = describe.parameters(config, kind) | describe.flatten(parameters)
    every = describe.run_tags(config, kind, name)
    if layout.variant is not None:
        every["variant"] = layout.variant
    name = describe.run_name(layout, name)
    spec: dict[str, Any] = {
        "kind": kind,
        "name": name,
        "root": str(layout.root.resolve()),
        "experiment": layout.experiment,
        "store": store.recorded_address(config, layout),
        "parameters": flat,
        "tags": every | {k: str(v) for k, v in tags.items()},
    }
    # Runs with equal digests are one run, so where and how fast it is computed is left out.
    decisive = {k: v for k, v in flat.items() if not k.startswith("execution.")}
    spec["digest"] = json_digest([kind, name, decisive])[:16]
    return spec


def _start_mirror(folder: Path) -> "subprocess.Popen[bytes] | None":
    source = str(Path(__file__).resolve().parents[2])
    paths = [source, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sdar.tracking.mirror", "--follow", str(folder.resolve())]
    try:
        # Ctrl-C reaches it too, from its first import on: it inherits the block, and ends later.
        with held_back():
            # The pipe to its standard input closes when this process ends.
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment
            )
    except OSError as error:
        log.warning(
            "MLflow's mirror does not start (%s); %s has the records, and %s",
            error,
            folder,
            store.later(folder),
        )
        return None


def _await_mirror(mirror: "subprocess.Popen[bytes]", folder: Path) -> None:
    assert mirror.stdin is not None
    # Not only the closed pipe: forked workers may hold copies of it open.
    with contextlib.suppress(OSError):
        mirror.stdin.write(b"end\n")
        mirror.stdin.close()
    try:
        mirror.wait(FINISH_SECONDS)
    except subprocess.TimeoutExpired:
        log.warning(
            "MLflow is still being written after %d s; going on without; should it not be complete "
            "in the end, %s",
            FINISH_SECONDS,
            store.later(folder),
        )
