"""The machine that a benchmark ran on, and where its numbers are kept."""

import platform
import re
from pathlib import Path
from typing import Any

import torch

from sdar.tracking.provenance import hardware

RESULTS = Path(__file__).resolve().parent / "results"


def machine_name() -> str:
    """The GPU's name, or the CPU's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return str(hardware()["cpu"])


def machine() -> dict[str, Any]:
    """What is written beside numbers."""
    this_machine = hardware()
    return {
        "name": machine_name(),
        "cores": this_machine["cores"],
        "memory_gib": this_machine["memory_gib"],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def recorded(bench: str) -> Path:
    """The file of this machine's numbers of a benchmark."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", machine_name()).strip("-")
    return RESULTS / f"{bench}-{slug}.json"
