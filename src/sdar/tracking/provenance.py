"""Where a run came from: `provenance.json` and the resolved `config.yaml` beside its results."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sdar.config import ExperimentConfig, Layout
from sdar.config.generate import resolved_yaml
from sdar.environments.packages import environment_sections
from sdar.files.digest import file_digest
from sdar.files.paths import model_folder
from sdar.files.whole import read_json, write_json, write_text
from sdar.redaction import redact

PACKAGES = (
    "sdar",
    "torch",
    "transformers",
    "accelerate",
    "tokenizers",
    "safetensors",
    "numpy",
    "pydantic",
    "pyarrow",
    *(name for section in environment_sections().values() for name in section.distributions),
    "vllm",
    "snakemake",
    "dvc",
    "mlflow",
)


def write_provenance(
    folder: Path, config: ExperimentConfig, layout: Layout, **extra: Any
) -> dict[str, Any]:
    """Write `config.yaml` and `provenance.json` into a run's folder; return the latter.

    `extra` adds keys, such as the skills' digests. Earlier starts in the same folder are listed
    under `earlier`. Takes milliseconds and no network. Raises `SdarError` when the files cannot be
    written. Where a model's own code is trusted, `remote_code` says which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.yaml", resolved_yaml(config))
    described = provenance(layout) | extra
    if config.policy.trust_remote_code:
        described["remote_code"] = _remote_code(config.policy.model)
    earlier = read_json(folder / "provenance.json")
    if earlier:
        short = {key: earlier.get(key) for key in ("started", "git", "command")}
        described["earlier"] = [*earlier.get("earlier", []), short]
    write_json(folder / "provenance.json", described, indent=2, default=str)
    return described


def _remote_code(model: str) -> dict[str, Any]:
    """The model whose own program code may run, and the digests of that code in its folder."""
    folder, files = model_folder(model), {}
    if folder is not None:
        for path in sorted(folder.rglob("*.py")):
            files[path.relative_to(folder).as_posix()] = file_digest(path)
    return {"model": model, "files": files}


def provenance(layout: Layout) -> dict[str, Any]:
    """Code, versions, hardware and data of this process, as plain values."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *map(redact, sys.argv[1:])],
        "git": git_state(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _versions(),
        "hardware": hardware(),
        "data": _data_digests(layout),
    }


def git_state() -> dict[str, Any]:
    """Commit of the source tree and whether tracked files differ; empty outside a git checkout."""
    source = Path(__file__).resolve().parent
    try:
        commit = _git(source, "rev-parse", "HEAD")
        changed = _git(source, "status", "--porcelain", "--untracked-files=no", "--", ":/")
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit, "dirty": bool(changed)}


def hardware() -> dict[str, Any]:
    """CPU model, usable cores, memory, GPU names, threads. Starts no GPU driver."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    torch = sys.modules.get("torch")
    return {
        "host": platform.node(),
        "cpu": _field(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "gpus": _gpus(),
        **_gpu_in_use(),
        "threads": torch.get_num_threads() if torch else os.environ.get("OMP_NUM_THREADS"),
    }


def _gpu_in_use() -> dict[str, Any]:
    """Driver and abilities of the GPU that this process computes on, where it has begun to."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    from sdar.policy.gpu import describe_gpu

    return {"gpu": describe_gpu(torch.cuda.current_device())}


def _gpus() -> list[str]:
    folder = Path("/proc/driver/nvidia/gpus")
    names = [_field(path, "Model") for path in sorted(folder.glob("*/information"))]
    return [name for name in names if name]


def _field(path: Path, key: str) -> str | None:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() == key:
                    return value.strip()
    except OSError:
        pass
    return None


def _versions() -> Mapping[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _data_digests(layout: Layout) -> dict[str, str]:
    files = (layout.tasks / "tasks.jsonl", layout.demonstrations / "demonstrations.parquet")
    root = layout.root
    return {str(file.relative_to(root)): file_digest(file) for file in files if file.is_file()}


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=5,
        check=True,
        env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
    )
    return done.stdout.strip()
