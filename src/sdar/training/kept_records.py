"""A run's records, kept with its checkpoints, so that a run that goes on has what it had.

Records may be deleted (DVC removes what a stage made before, when it runs the stage again), damaged
or of another run; a checkpoint holds metrics, timings and episodes as they were, and its manifest
their digests. Recorded tokens are large: they have a second name in the checkpoint, outside its
manifest, and digests of their own in its state.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sdar.files.digest import file_digest
from sdar.files.whole import write_bytes
from sdar.tracking.recorder import RunRecorder
from sdar.training.checkpoint import Checkpoint
from sdar.training.episode_log import EpisodeLog

RECORDS = "records"
_PROVENANCE, _TOKENS = "provenance.json", "tokens"


def keep_records(
    recorder: RunRecorder,
    episodes: EpisodeLog | None = None,
    step: int | None = None,
    timings: Callable[[], Mapping[str, Any]] = dict,
) -> Callable[[Path], None]:
    """What writes a run's records into a checkpoint, on the rank that writes; `step` and what
    `timings` gives as in `RunRecorder.keep`."""

    def fill(checkpoint: Path) -> None:
        kept = checkpoint / RECORDS
        kept.mkdir()
        recorder.keep(kept, step, timings())
        if episodes is not None:
            episodes.keep(kept)
        if (recorder.folder / _PROVENANCE).is_file():
            shutil.copyfile(recorder.folder / _PROVENANCE, kept / _PROVENANCE)

    return fill


def kept_in(checkpoint: Checkpoint | None) -> Path | None:
    """The folder of the records in a checkpoint."""
    return None if checkpoint is None else checkpoint.path / RECORDS


def keep_tokens(run: Path, checkpoint: Path) -> None:
    """Give the recorded tokens of a run and their pages a second name in its checkpoint."""
    target = checkpoint / RECORDS / _TOKENS
    if (run / _TOKENS).is_dir():
        shutil.copytree(run / _TOKENS, target, copy_function=_link, dirs_exist_ok=True)


def lost_tokens(run: Path, checkpoint: Checkpoint) -> str | None:
    """What is wrong with the recorded tokens of a checkpoint's steps, or None where each is as it
    was, in the run's folder or in the checkpoint."""
    for name, digest in checkpoint.state["tokens"].items():
        path = run / _TOKENS / name
        if not (_is(path, digest) or _is(checkpoint.path / RECORDS / _TOKENS / name, digest)):
            return f"{path} is not what it was"
    return None


def restore_files(run: Path, checkpoint: Checkpoint) -> None:
    """Bring back what the run's folder lacks of recorded tokens, their pages and provenance."""
    kept = checkpoint.path / RECORDS
    digests = checkpoint.state.get("tokens", {})
    for source in (kept / _PROVENANCE, *sorted((kept / _TOKENS).glob("*"))):
        target = run / source.relative_to(kept)
        digest = digests.get(source.name)
        if source.is_file() and not (target.is_file() if digest is None else _is(target, digest)):
            write_bytes(target, source.read_bytes())


def _is(path: Path, digest: str) -> bool:
    try:
        return file_digest(path) == digest
    except OSError:
        return False


def _link(source: str, target: str) -> None:
    # These files are never changed in place: a second name is enough, where there can be one.
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
