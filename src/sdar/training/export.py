"""The finished policy as others load it: in Hugging Face format."""

from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar, enable_progress_bar

from sdar.policy.lora import has_adapters
from sdar.policy.weights import further_names, is_sharded, named_full_weights
from sdar.training.checkpoint import write_checkpoint


def export_policy(folder: Path, model: Any, tokenizer: Any, writes: bool = True) -> None:
    """Write the finished policy in Hugging Face format, whole and without adapters, in one step.

    On many ranks all call it, and the one that `writes` does.
    """
    options: dict[str, Any] = {}
    if is_sharded(model) or has_adapters(model):
        tied = further_names(model)
        options["state_dict"] = {
            name: value.cpu()
            for name, value in named_full_weights(model)
            if writes and name not in tied
        }
    if not writes:
        return

    def fill(path: Path) -> None:
        model.save_pretrained(path, **options)
        tokenizer.save_pretrained(path)

    disable_progress_bar()  # transformers' own, for one small file
    try:
        write_checkpoint(folder, fill)
    finally:
        enable_progress_bar()
