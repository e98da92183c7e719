"""Sending weights to servers: safetensors files in a folder that both sides see."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

SHARD_BYTES = 2 << 30
"""A file is written once it holds so much, which bounds the host memory needed."""


def write_weights(named: Iterable[tuple[str, Tensor]], folder: Path, dtype: torch.dtype) -> None:
    """Write all tensors, floating ones as `dtype`, in place of what is in `folder`.

    The files are in the order of their names; a tensor under two names is written twice.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shard: dict[str, Tensor] = {}
    held = number = 0
    for name, tensor in named:
        kept = tensor.detach()
        if kept.is_floating_point():
            kept = kept.to(dtype)
        # A copy of its own: tied tensors share memory, which the format refuses.
        shard[name] = kept.cpu().clone(memory_format=torch.contiguous_format)
        held += shard[name].nbytes
        if held >= SHARD_BYTES:
            save_file(shard, folder / f"weights-{number:05d}.safetensors")
            shard, held, number = {}, 0, number + 1
    if shard:
        save_file(shard, folder / f"weights-{number:05d}.safetensors")


def read_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """What `write_weights` wrote, one tensor at a time; `FileNotFoundError` if there is nothing."""
    files = sorted(folder.glob("weights-*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no weights in {folder}: is it on a file system that both see?")
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dictionary
                yield name, opened.get_tensor(name)
