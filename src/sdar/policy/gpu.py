"""What there is of a GPU: for `sdar doctor`, and for a run's provenance."""

import os
import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from sdar.errors import SdarError

GIB = 2**30
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""The variable, and what it was called before torch 2.9."""
_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""What a run lets torch choose from, see `reproducible.choose_kernels`."""
_DRIVER = Path("/proc/driver/nvidia/version")


def device_name(device: torch.device | str) -> str:
    """`cpu`, or the name of a GPU: results differ in their rounding from one to the other."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def chosen_device(wanted: str) -> torch.device:
    """The device that `execution.device` means on this machine. Raises `SdarError` where it is cuda
    and there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise SdarError(
            "execution.device is cuda, but PyTorch finds no CUDA device; set it to auto or cpu, or "
            "fix the driver (see `sdar doctor`)"
        )
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def choose_allocator(
    device: torch.device, vllm: bool, environment: MutableMapping[str, str] = os.environ
) -> None:
    """Let a GPU's memory be kept in segments that grow, so that the different widths of passes
    leave no gaps in it. Call it before anything lies on the GPU: torch reads the variable once.

    What is set stays. Not with `vllm` in this process, whose own allocator does not go with it.
    """
    given = any(name in environment for name in _ALLOCATOR)
    if device.type == "cuda" and not vllm and not given:
        environment[_ALLOCATOR[0]] = "expandable_segments:True"


def describe_gpu(device: torch.device | int = 0) -> dict[str, Any]:
    """Name, driver and abilities of a GPU, as plain values; memory in GiB."""
    free, total = torch.cuda.mem_get_info(device)
    major, minor = torch.cuda.get_device_capability(device)
    return {
        "name": torch.cuda.get_device_name(device),
        "capability": f"{major}.{minor}",
        "memory_gib": round(total / GIB, 1),
        "free_gib": round(free / GIB, 1),
        "driver": driver_version(),
        "cuda": torch.version.cuda,
        "bfloat16": torch.cuda.is_bf16_supported(including_emulation=False),
    }


def driver_version(path: Path = _DRIVER) -> str | None:
    """Of NVIDIA's kernel module; None where there is none."""
    try:
        found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", path.read_text(encoding="utf-8"))
    except OSError:
        return None
    return None if found is None else found.group()


def attention_backend(
    heads: int, kv_heads: int, head_size: int, dtype: torch.dtype, device: torch.device | str
) -> str:
    """What computes causal attention of such heads in training: `FLASH_ATTENTION`,
    `EFFICIENT_ATTENTION` or, with all scores at once in memory, `MATH`."""
    choose = getattr(torch, "_fused_sdp_choice", None)
    if choose is None:
        return "not known"
    query = torch.zeros(1, heads, 32, head_size, dtype=dtype, device=device, requires_grad=True)
    key = torch.zeros(1, kv_heads, 32, head_size, dtype=dtype, device=device, requires_grad=True)
    with sdpa_kernel(_ATTENTION):
        chosen = choose(query, key, key, is_causal=True, enable_gqa=heads != kv_heads)
    return str(SDPBackend(chosen).name)
