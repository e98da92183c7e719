"""A step of fixed shapes as a CUDA graph: captured once, then launched as one."""

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import torch

WARM_UP = 2
"""Runs before a capture: libraries allocate and choose kernels at the first."""


class CapturedSteps:
    """Runs steps by name; each is what it does to buffers that stay where they are.

    The first runs are the step itself, on the stream that is captured later. The last of them may
    not wait for the device: what does cannot be captured, and is said here, where it does no harm.
    All graphs share their memory: none needs another's after its end.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._graphs: dict[Hashable, Any] = {}
        self._runs: Counter[Hashable] = Counter()
        self._stream: Any = torch.cuda.Stream(device)
        self._pool: Any = torch.cuda.graph_pool_handle()

    def run(self, name: Hashable, step: Callable[[], None]) -> None:
        """Run `step`, which does the same whenever it comes with this name."""
        if name not in self._graphs:
            if self._runs[name] < WARM_UP:
                self._runs[name] += 1
                self._warm_up(step, last=self._runs[name] == WARM_UP)
                return
            self._graphs[name] = self._capture(step)
        self._graphs[name].replay()

    def close(self) -> None:
        """Forget all graphs, when none is being run, and give their memory back."""
        torch.cuda.synchronize(self.device)
        self._graphs.clear()
        self._runs.clear()
        # A pool without graphs is on its way out, and may not be taken again.
        self._pool = torch.cuda.graph_pool_handle()
        torch.cuda.empty_cache()

    def _warm_up(self, step: Callable[[], None], last: bool) -> None:
        usual = torch.cuda.get_sync_debug_mode()
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        if last:
            torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.cuda.stream(self._stream):
                step()
        finally:
            torch.cuda.set_sync_debug_mode(usual)
        torch.cuda.current_stream(self.device).wait_stream(self._stream)

    def _capture(self, step: Callable[[], None]) -> Any:
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as those that watch a group of ranks, go on meanwhile.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            step()
        return graph
