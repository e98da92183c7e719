"""What results depend on beside seeds: threads and kernels."""

import torch


def make_reproducible(threads: int) -> None:
    """Fix thread count and the choice of kernels, for this process."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Nothing here reads memory it has not written; filling it would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
