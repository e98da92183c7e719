"""What `sdar serve-policy` adds to vLLM's workers: they take weights from files."""

from pathlib import Path
from typing import Any

from sdar.rollout.engines.vllm.weight_files import read_weights


class WeightsFromFiles:
    """Mixed into vLLM's worker class (its option --worker-extension-cls); called by
    `POST /collective_rpc`."""

    def sdar_take_weights(self: Any, folder: str) -> None:
        """Load the weights in `folder`."""
        self.reload_weights(weights_iterator=read_weights(Path(folder)))
