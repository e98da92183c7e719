"""Starting vLLM in this process: its settings, and undoing what it changes in the process."""

import copy
import importlib.util
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdar.config.rollout import VllmConfig
from sdar.errors import SdarError

CPU_STEP_TOKENS = 8192
"""Tokens of prompts in one step on a CPU."""
CPU_BLOCK = 128
"""Tokens of a block of vLLM's key-value cache on a CPU."""
LLVM = "llvmlite.binding.ffi"


def start_engine(
    model: Any,
    config: VllmConfig,
    *,
    tokens: int,
    batch: int,
    dtype: str,
    rank: int,
    trust_remote_code: bool = False,
) -> Any:
    """vLLM's engine for `model`'s architecture, with random weights.

    `tokens` is the most per sequence, `batch` the most sequences in one step. Raises `SdarError`
    with vLLM's reason when it cannot start.
    """
    vllm = import_vllm()
    from vllm.usage.usage_lib import UsageContext

    several = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
    with tempfile.TemporaryDirectory(prefix="sdar-vllm-") as folder, _as_it_was():
        shape = _save_shape(model, Path(folder), tokens)
        if torch.cuda.is_available():
            limits: dict[str, Any] = {
                "gpu_memory_utilization": config.gpu_memory_share,
                "enable_sleep_mode": config.sleep,
                "enforce_eager": config.eager,
            }
        else:
            limits = {"enforce_eager": True, **cpu_limits(shape, tokens, batch, dtype)}
        try:
            arguments = vllm.EngineArgs(
                model=folder,
                load_format="dummy",
                skip_tokenizer_init=True,
                generation_config="vllm",
                dtype=dtype,
                max_model_len=tokens,
                max_num_seqs=batch,
                enable_prefix_caching=True,
                # Raw: before the temperature of the sampling, so always at 1.
                logprobs_mode="raw_logprobs",
                # A step's tokens come back from that step.
                async_scheduling=False,
                # One engine per rank: vLLM takes the ranks' group for independent replicas.
                distributed_executor_backend="external_launcher" if several else "uni",
                seed=0,
                trust_remote_code=trust_remote_code,
                disable_log_stats=True,
                **limits,
            )
            # The offline class's defaults: many tokens per step.
            return vllm.LLMEngine.from_engine_args(arguments, UsageContext.LLM_CLASS)
        except (ValueError, RuntimeError, AssertionError, NotImplementedError) as error:
            # What vLLM raises of a model, a device or settings that it cannot serve.
            raise SdarError(
                f"rank {rank}: vLLM cannot start with this policy "
                f"({' '.join(str(error).split())[:300]}); see rollout.vllm, or set rollout.engine "
                "to transformers"
            ) from error


def cpu_limits(shape: Any, tokens: int, batch: int, dtype: str) -> dict[str, Any]:
    """Settings of vLLM for a CPU: `shape` is the model's configuration."""
    return {
        "kv_cache_memory_bytes": _cache_bytes(shape, tokens, batch, dtype),
        # A prompt taken in parts needs a seeded draw taken back, which a CPU's generator cannot.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(tokens, CPU_STEP_TOKENS),
    }


def import_vllm() -> Any:
    # In this process, not in one of its own: weights are handed over as tensors.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if not torch.cuda.is_available():
        # Compiling its few sampling kernels takes longer than a CPU's whole rollout.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    require_vllm()
    try:
        import vllm
        import vllm.v1.engine.llm_engine  # loads what `vllm` leaves for later
    except (ImportError, OSError, RuntimeError) as error:
        raise _absent(f"cannot be loaded here ({' '.join(str(error).split())[:200]})") from error
    return vllm


def require_vllm() -> None:
    """Raise `SdarError` when vLLM is not installed; does not load it."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:  # a folder of that name has no origin
        raise _absent(f"is not installed for {sys.executable}")


def _absent(what: str) -> SdarError:
    return SdarError(
        f"rollout.engine is vllm, but vLLM {what}: install it in an environment of its own "
        "(docs/vllm.md; make test-vllm makes one for CPUs), or set rollout.engine to transformers"
    )


def _save_shape(model: Any, folder: Path, tokens: int) -> Any:
    """Write the model's configuration, without weights; returns it."""
    shape = copy.deepcopy(model.config)
    if not shape.architectures:
        shape.architectures = [type(model).__name__.removeprefix("FSDP")]
    # The token after a scored response, which is not used, may be one beyond the context.
    if hasattr(shape, "max_position_embeddings"):  # a recurrent model has no such limit
        shape.max_position_embeddings = max(shape.max_position_embeddings, tokens)
    shape.save_pretrained(folder)
    return shape


def _cache_bytes(shape: Any, tokens: int, batch: int, dtype: str) -> int:
    """Room for `batch` sequences of `tokens` tokens in the key-value cache."""
    shape = shape.get_text_config(decoder=True)
    heads = shape.num_attention_heads
    head = getattr(shape, "head_dim", None) or shape.hidden_size // heads
    per_token = 2 * shape.num_hidden_layers * (getattr(shape, "num_key_value_heads", None) or heads)
    per_token *= head
    blocks = batch * (-(-tokens // CPU_BLOCK) + 1) + 1
    return int(per_token * getattr(torch, dtype).itemsize * CPU_BLOCK * blocks)


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Undo what vLLM changes in its process when it starts: the global random generators,
    `torch.set_num_threads`, the precision of matrix products."""
    python, numbers, set_threads = random.getstate(), np.random.get_state(), torch.set_num_threads
    precision = torch.get_float32_matmul_precision()
    # vLLM's CPU build looks through every loaded module, and trips over an object of this one.
    hidden = {name: sys.modules.pop(name) for name in (LLVM,) if name in sys.modules}
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)
            torch.set_num_threads = set_threads
            torch.set_float32_matmul_precision(precision)
            sys.modules.update(hidden)
