"""The lock that a killed Snakemake leaves in its folder, and whether it may be removed.

Snakemake's lock names nobody. So who holds it is noted beside it when jobs start, and the lock is
released only where that process is gone and no other one, nor a stage it started, works here.
"""

import itertools
import platform
from pathlib import Path
from typing import Any

import psutil

from sdar.errors import SdarError
from sdar.files.whole import read_json, write_json

LOCKS = Path(".snakemake") / "locks"
HOLDER = Path(".snakemake") / "sdar-holder.json"
BY_HAND = "snakemake --unlock --profile profiles/local"
STAGES = ("tasks", "demonstrations", "warm-start", "train", "evaluate", "compare", "report")
_OVER_A_NETWORK = ("nfs", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb", "afs", "fuse.")


def note_holder(root: Path) -> None:
    """Note that this process works in the project `root`, on this host."""
    process = psutil.Process()
    about = {"host": platform.node(), "pid": process.pid, "started": process.create_time()}
    write_json(root / HOLDER, about)


def is_locked(root: Path) -> bool:
    """Snakemake would refuse to start here."""
    return any((root / LOCKS).glob("*"))


def check_stale(root: Path) -> None:
    """Raise `SdarError`, with who may hold the lock, unless it is certain that nobody does."""
    holder = read_json(root / HOLDER)
    host, here = holder.get("host"), platform.node()
    if host not in (None, here):
        raise SdarError(
            f"{root.resolve()}: locked by Snakemake on {host} (process {holder.get('pid')}), which "
            f"cannot be seen from {here}: wait for it, or if it is gone: {BY_HAND}"
        )
    if host is None and _is_on_a_network(root):
        raise SdarError(
            f"{root.resolve()}: locked by Snakemake, perhaps on another host: wait for it, or if "
            f"there is none any more: {BY_HAND}"
        )
    for process in psutil.process_iter(["pid", "cmdline", "create_time"]):
        if _works_in(root, process, holder):
            said = " ".join(process.info["cmdline"] or [])[:120]
            raise SdarError(
                f"{root.resolve()}: process {process.info['pid']} still works here ({said}): wait "
                "for it, or end it, then run the same command again"
            )


def _works_in(root: Path, process: Any, holder: dict[str, Any]) -> bool:
    if process.info["pid"] in _own_line():
        return False
    noted = (holder.get("pid"), holder.get("started"))
    is_holder = (process.info["pid"], process.info["create_time"]) == noted
    if not (is_holder or _is_of_the_pipeline(process.info["cmdline"] or [])):
        return False
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return Path(process.cwd()).resolve() == root.resolve()
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # another user's
        return is_holder


def _own_line() -> set[int]:
    """This process and those that started it, such as make."""
    process = psutil.Process()
    return {process.pid, *(parent.pid for parent in process.parents())}


def _is_of_the_pipeline(words: list[str]) -> bool:
    """Snakemake, or a stage: `sdar train ...`, also under torchrun or srun."""
    names = [Path(word).name for word in words]
    pairs = itertools.pairwise(names)
    return "snakemake" in names or any(
        name in ("sdar", "sdar.cli") and word in STAGES for name, word in pairs
    )


def _is_on_a_network(root: Path) -> bool:
    """Other hosts may see this folder, as far as the file system's type tells."""
    place = root.resolve()
    mounts = {
        Path(part.mountpoint): part.fstype.lower() for part in psutil.disk_partitions(all=True)
    }
    nearest = next((mounts[above] for above in (place, *place.parents) if above in mounts), "")
    return nearest.startswith(_OVER_A_NETWORK)
