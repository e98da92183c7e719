"""What results depend on beside seeds: threads and kernels."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sdar.errors import SdarError

_WORKSPACES = (":4096:8", ":16:8")
"""Those of cuBLAS with which it sums in one order."""
_NO_SUCH_KERNEL = "does not have a deterministic implementation"


def make_reproducible(threads: int) -> None:
    """Fix thread count and the choice of kernels, for this process. Call it before anything is
    computed: cuBLAS takes its workspace with its first call, and for good."""
    if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in _WORKSPACES:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = _WORKSPACES[0]
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Nothing here reads memory it has not written; filling it would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def choose_kernels(device: torch.device) -> None:
    """Between blocks of `exact_kernels`: the quickest kernels on a GPU, which sampling needs (a
    sum of floats has no other, and a cache is filled many times slower otherwise). On a CPU
    `make_reproducible` has said it.

    Attention is never cuDNN's, which torch would take first on some GPUs where it need not be
    exact: it prepares a plan for each shape, tens of milliseconds, and prompts always have another.
    """
    if is_gpu(device):
        torch.use_deterministic_algorithms(False)
        torch.backends.cuda.enable_cudnn_sdp(False)


@contextmanager
def exact_kernels(device: torch.device, wanted: bool = True) -> Iterator[None]:
    """A block whose kernels give the same bits each time on a GPU: scoring, and the update with its
    backward pass. On a CPU nothing changes.

    Warnings would not do: only where anything else is an error does the backward pass of attention
    take its deterministic kernel. `wanted` is `execution.deterministic`. Raises `SdarError` where
    an operation of the model has no such kernel.
    """
    if not (wanted and is_gpu(device)):
        yield
        return
    torch.use_deterministic_algorithms(True, warn_only=False)
    try:
        yield
    except RuntimeError as error:
        if _NO_SUCH_KERNEL not in str(error):
            raise
        operation = str(error).split()[0]
        raise SdarError(
            f"policy.model: {operation}, which this model needs, has no deterministic kernel on a "
            "GPU: set execution.deterministic to false, and a run will not repeat bit for bit"
        ) from error
    finally:
        torch.use_deterministic_algorithms(False)


def is_gpu(device: torch.device) -> bool:
    """Whether kernels are CUDA's."""
    return device.type == "cuda"
