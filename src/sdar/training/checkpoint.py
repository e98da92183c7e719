"""Resumable checkpoints: whole or not there, checked when read, never harmed by a failed save.

A checkpoint is a folder `step-00010/`: the weights, the optimizer, `state.json`, a copy of the
run's records, which a run that goes on takes up from there, and `manifest.json` with the SHA-256 of
every file. It is written beside its place, forced to disk, and renamed, so a folder of
that name is complete unless the disk lied; the manifest finds that out. `step-00010` means: steps
0..9 are done, 10 comes next.
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError

from sdar.files.digest import file_digest
from sdar.files.whole import write_folder
from sdar.training.trained_state import not_finite, read_state, trained_state, write_state

log = logging.getLogger("sdar.training")
_MANIFEST = "manifest.json"
_PREFIX = "step-"
_REMEDY = (
    "free some space or fix the folder's permissions, then run the same command again: earlier "
    "checkpoints are unharmed and training continues from the newest"
)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: training continues at `step`; `state` is what was saved with it."""

    path: Path
    step: int
    state: dict[str, Any]


def save_checkpoint(
    folder: Path,
    step: int,
    *,
    model: Any,
    optimizer: Any,
    state: Mapping[str, Any],
    keep: int,
    extra: Callable[[Path], None] | None = None,
    writes: bool = True,
) -> Path:
    """Write `folder/step-<step>`, then remove all but it and the `keep - 1` before it.

    On many ranks all call it, and the one that `writes` does. `extra` may write more files into
    the new checkpoint. Raises `SdarError` when it cannot be written (no space, no permission);
    what was there before is unharmed then.
    """
    target = folder / f"{_PREFIX}{step:05d}"
    trained = trained_state(model, optimizer, writes)
    if not writes:
        return target

    def fill(path: Path) -> None:
        write_state(path, trained)
        (path / "state.json").write_text(
            json.dumps({**state, "step": step}, indent=1, sort_keys=True) + "\n", encoding="utf-8"
        )
        if extra is not None:
            extra(path)
        _write_manifest(path)

    write_checkpoint(target, fill)
    kept = _newest_first(folder)
    mine = kept.index(target)
    # Later ones were not continued: they belong to another run, whose records are replaced.
    for old in [*kept[:mine], *kept[mine + keep :]]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def write_checkpoint(target: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write weights and what goes with them into a folder that is whole or not there.

    Raises `SdarError` when that fails; `target` is then what it was.
    """
    # PyTorch and safetensors have errors of their own for a full disk.
    write_folder(target, fill, remedy=_REMEDY, failures=(SafetensorError, RuntimeError))


def latest_complete(
    folder: Path, accept: Callable[[Checkpoint], bool] | None = None
) -> Checkpoint | None:
    """The newest checkpoint whose files are all as they were written, or None.

    Warns when a newer one is cut short or corrupt and is passed over. `accept` may turn down
    checkpoints that belong to something else.
    """
    for path in _newest_first(folder):
        problem = _problem(path) or _damage(path)
        if problem is not None:
            said = " ".join(problem.split())[:300]
            log.warning("%s is not usable (%s); looking for an earlier checkpoint", path, said)
            continue
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        checkpoint = Checkpoint(path, int(state["step"]), state)
        if accept is None or accept(checkpoint):
            return checkpoint
    return None


def load_checkpoint(checkpoint: Checkpoint, model: Any, optimizer: Any) -> None:
    """Put the saved weights and optimizer state into `model` and `optimizer`, in place."""
    read_state(checkpoint.path, model, optimizer)


def _newest_first(folder: Path) -> list[Path]:
    folders = [path for path in folder.glob(f"{_PREFIX}*") if path.is_dir()]
    return sorted(folders, key=lambda path: (len(path.name), path.name), reverse=True)


def _write_manifest(path: Path) -> None:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    digests = {str(file.relative_to(path)): file_digest(file) for file in files}
    (path / _MANIFEST).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


def _problem(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        digests = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(digests, dict) or "state.json" not in digests:
            return f"{_MANIFEST} is no list of its files"
        for name, digest in digests.items():
            if file_digest(path / name) != digest:
                return f"{name} differs from what was saved"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError) as error:
        return f"{_MANIFEST} or a file it names cannot be read: {error}"
    return None


def _damage(path: Path) -> str | None:
    """What is wrong with weights and optimizer that are as they were saved, or None."""
    try:
        value = not_finite(path)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, UnpicklingError) as error:
        return f"it cannot be read: {error}"
    return None if value is None else f"not finite: {value}"
