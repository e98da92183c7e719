"""Jobs without steps of their own (tasks, demonstrations, comparison, report) as runs."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from sdar.config import ExperimentConfig, Layout
from sdar.config.stages import Stage
from sdar.files.lock import only_writer
from sdar.tracking.provenance import write_provenance
from sdar.tracking.recorder import RunRecorder


@contextlib.contextmanager
def recorded_stage(
    config: ExperimentConfig, layout: Layout, kind: Stage, artifacts: tuple[Path, ...]
) -> Iterator[None]:
    """Record the block as a run in `layout.runs / kind`: how long it took, and those of `artifacts`
    that exist at its end. Raises `SdarError` where another process does the same."""
    folder = layout.runs / kind
    with (
        only_writer(folder),
        RunRecorder(folder, config=config, layout=layout, kind=kind, name=kind) as run,
    ):
        run.truncate(0)
        write_provenance(folder, config, layout)
        began = time.perf_counter()
        yield
        run.timings(0, {"total_s": round(time.perf_counter() - began, 3)})
        for path in artifacts:
            if path.exists():
                run.artifact(path)
