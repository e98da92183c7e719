"""What one of two ranks with sharded weights (FSDP2, gloo) allocates in an update. A script:

torchrun --standalone --nproc-per-node 2 memory_of_ranks.py OUTPUT FAMILY ...
"""

import copy
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import test_memory_measured as measured
import torch
import torch.distributed as dist
from measuring import LiveTensors

from sdar.policy.log_probs import PolicyScorer
from sdar.policy.recomputation import recompute_layers
from sdar.policy.sharding import shard
from sdar.training.optimizer import make_optimizer


def peaks_of(family: str) -> dict[str, int]:
    """Most bytes at once on this rank, by phase."""
    as_launched = SimpleNamespace(
        device=torch.device("cpu"), num_processes=2, mixed_precision="bf16"
    )
    policy = measured.model(family)
    reference = copy.deepcopy(policy).requires_grad_(False)
    recompute_layers(policy)
    scorer = shard(PolicyScorer(policy, chunk_logits=measured.CHUNK), as_launched)
    shard(PolicyScorer(reference, chunk_logits=measured.CHUNK), as_launched)
    optimizer = make_optimizer(policy, 1e-4, 0.01)

    def forward_backward() -> None:
        scores = scorer(measured.batch(), entropy=True)
        (scores.log_probs.sum() + scores.entropy.sum()).backward()

    def score() -> None:
        with torch.no_grad():
            scorer(measured.batch(), entropy=True)

    forward_backward()
    optimizer.step()
    peaks = {}
    for name, action in (("update", forward_backward), ("scoring", score)):
        if name == "scoring":
            optimizer.zero_grad()
        with LiveTensors(policy, optimizer, reference) as live:
            action()
        peaks[name] = live.peak
    return peaks


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {family: peaks_of(family) for family in sys.argv[2:]}
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(found))
    dist.destroy_process_group()
