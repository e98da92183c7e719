"""A run's records, kept with its checkpoints as well.

DVC removes what a stage made before, records among it, when it runs the stage again; and a run that
was stopped continues from its checkpoint, for which it needs its records up to there.
"""

import os
import shutil
from pathlib import Path

from sdar.files.whole import write_bytes

TIMINGS = "timings.jsonl"
KEPT = ("metrics.jsonl", "episodes.parquet", "tokens", "provenance.json")
_FOLDER = "records"


def keep_records(run: Path, checkpoint: Path) -> None:
    """Copy the records of a run's folder into one of its checkpoints, as it is being written."""
    kept = checkpoint / _FOLDER
    kept.mkdir()
    for name in KEPT:
        _copy(run / name, kept / name)


def keep_timings(run: Path, checkpoint: Path) -> None:
    """The seconds of a checkpoint's own step are known only after it, so its manifest has none."""
    timings = run / TIMINGS
    if timings.is_file():
        write_bytes(checkpoint / _FOLDER / TIMINGS, timings.read_bytes())


def restore_records(run: Path, checkpoint: Path) -> None:
    """Bring back the records that the run's folder lacks, from the checkpoint it continues from."""
    for name in (*KEPT, TIMINGS):
        if not (run / name).exists():
            _copy(checkpoint / _FOLDER / name, run / name)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        # These files are never changed in place: a second name is enough, where there can be one.
        shutil.copytree(source, target, copy_function=_link)
    elif source.is_file():
        shutil.copyfile(source, target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
