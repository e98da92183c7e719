"""The memory a process has needed so far."""

import resource
import sys

import torch


def peak_memory_gib() -> dict[str, float]:
    """Most memory this process has held so far, and most GPU memory if it uses one."""
    scale = 1 if sys.platform == "darwin" else 1024
    peak = {"memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**30}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peak["gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return {name: round(value, 3) for name, value in peak.items()}
