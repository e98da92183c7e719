"""One engine a rank, run by torchrun: python two_ranks.py FILE

Each rank of a gloo group opens its own engine and answers its half of the prompts; between, the
ranks' own group is used as a trainer would. Rank 0 writes all responses to FILE.
"""

import json
import sys
from pathlib import Path

import scripted
import torch
import torch.distributed as dist
import vllm_world
from test_vllm_engine import KEYS, sampled


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    policy = scripted.policy(head=32, spread=2.0)
    engine = vllm_world.open_vllm(policy, rank=rank)
    prompts = vllm_world.prompts(8)
    mine = range(rank, 8, ranks)
    # Uneven on purpose: a rank's engine waits for no other's.
    if rank == 0:
        sampled(engine, prompts)
    found = sampled(engine, [prompts[i] for i in mine], [KEYS[i] for i in mine])
    total = torch.tensor([float(rank + 1)])
    dist.all_reduce(total)
    assert total.item() == sum(range(1, ranks + 1)), "the default group is the ranks' still"
    engine.take_weights(policy.state_dict().items(), 1)
    gathered: list[dict[int, list[int]]] = [{} for _ in range(ranks)]
    answers = {i: g.token_ids for i, g in zip(mine, found, strict=True)}
    dist.all_gather_object(gathered, answers)
    engine.close()
    dist.barrier()
    if rank == 0:
        every = {i: ids for part in gathered for i, ids in part.items()}
        Path(sys.argv[1]).write_text(json.dumps([every[i] for i in range(8)]))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
