"""How the ranks of a training job find each other: torch.distributed's variables from SLURM's.

`srun` starts a process per rank and sets SLURM_PROCID and others; torch.distributed reads RANK,
WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, which `torchrun` and `accelerate launch` set.
See https://slurm.schedmd.com/srun.html, OUTPUT ENVIRONMENT VARIABLES.
"""

import os
import re
import socket
from collections.abc import Callable, MutableMapping

from sdar.errors import SdarError

_FIRST_PORT, _PORTS = 20000, 10000  # below Linux's ephemeral ports, which begin at 32768


def join_ranks(
    nodes: int,
    processes: int,
    environment: MutableMapping[str, str] = os.environ,
    resolves: Callable[[str], bool] | None = None,
) -> None:
    """Set torch.distributed's variables where `srun` started the ranks and they are not set yet.

    MASTER_ADDR is the first node's name or, where that `resolves` to no address, the address of
    the node srun was called on; MASTER_PORT is a function of the job's number. Either is kept where
    it is set (`cluster.environment`). Raises `SdarError` where more or fewer ranks were started
    than `nodes` times `processes`.
    """
    started = int(environment.get("SLURM_STEP_NUM_TASKS", 1))
    if "WORLD_SIZE" not in environment and started > 1:
        environment["WORLD_SIZE"] = str(started)
        environment["RANK"] = environment["SLURM_PROCID"]
        environment["LOCAL_RANK"] = environment["SLURM_LOCALID"]
        tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", "1")
        environment["LOCAL_WORLD_SIZE"] = re.split(r"\D", tasks)[0]
        first = first_node(environment["SLURM_STEP_NODELIST"])
        if not (resolves or _resolves)(first):
            first = environment.get("SLURM_LAUNCH_NODE_IPADDR", first)
        environment.setdefault("MASTER_ADDR", first)
        port = _FIRST_PORT + int(environment["SLURM_JOB_ID"]) % _PORTS
        environment.setdefault("MASTER_PORT", str(port))
    world = int(environment.get("WORLD_SIZE", 1))
    if world != nodes * processes:
        raise SdarError(
            f"{world} process(es) started, {nodes * processes} configured (execution.nodes "
            f"{nodes} x execution.processes {processes}): let Snakemake start "
            "them (docs/cluster.md), or correct the keys"
        )


def fit_local_rank(gpus: int, environment: MutableMapping[str, str] = os.environ) -> None:
    """Make LOCAL_RANK, which accelerate takes for a GPU's number, one of the `gpus` that this
    process sees: SLURM's `--gpus-per-task` shows each task one alone, number 0."""
    local = int(environment.get("LOCAL_RANK", -1))
    if 0 < gpus <= local:
        environment["LOCAL_RANK"] = str(local % gpus)


def rank(environment: MutableMapping[str, str] = os.environ) -> int:
    """This process's place among the ranks; 0 for a single process."""
    return int(environment.get("RANK", 0))


def first_node(nodes: str) -> str:
    """The first name of a list in SLURM's notation: n07 of `n[07-12,15],m1`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first.group() if first else nodes)


def _resolves(name: str) -> bool:
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return False
    return True
