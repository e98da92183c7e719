"""How a job that trains is started: one process, several on one machine, several on many. No torch.

    one process     sdar train ...
    one machine     torchrun --standalone ... sdar train ...
    under SLURM     srun --nodes=N --ntasks-per-node=P ... sdar train ...

Under SLURM each rank is a task of srun, without torchrun's agent, which would end its ranks half a
minute after a SIGTERM: SLURM's signals reach every rank, and the exit code is `sdar`'s own. Ranks
find each other by SLURM's variables (`sdar.ranks.rendezvous`).
"""

import shlex
from pathlib import Path
from typing import Any, Literal

from sdar.config.cluster import JobConfig, activation, in_container, job_resources
from sdar.config.execution import ExecutionConfig
from sdar.config.models import ExperimentConfig
from sdar.errors import SdarError

_STRICT = "set -euo pipefail; "
# SLURM sends its signals to every process of a job: only `sdar` takes them, which saves and ends;
# the shells and `tee` around it must live until then.
_DEAF = "[ -z ${SLURM_JOB_ID:-} ] || trap '' TERM USR1; "


def launcher(execution: ExecutionConfig, in_slurm: bool) -> list[str]:
    """The words before a program that start it once per rank; none for a single process.

    `in_slurm`: within a SLURM job, whose nodes are used. Elsewhere several nodes are an
    `SdarError`.
    """
    if execution.ranks == 1:
        return []
    if in_slurm:
        # A rank that fails ends the others, which would wait for it (--kill-on-bad-exit); one that
        # is done early leaves them the time they need, whatever the cluster's WaitTime (--wait).
        return [
            *("srun", f"--nodes={execution.nodes}", f"--ntasks={execution.ranks}"),
            *(f"--ntasks-per-node={execution.processes}", f"--cpus-per-task={execution.threads}"),
            *("--kill-on-bad-exit=1", "--wait=0", "--mpi=none", "--input=none"),
        ]
    if execution.nodes > 1:
        raise SdarError(needs_slurm(execution))
    # Standalone: a free port. The address: a machine need not know its own name.
    return [
        "torchrun",
        "--standalone",
        "--local-addr=127.0.0.1",
        f"--nproc-per-node={execution.processes}",
        "--no-python",
    ]


def needs_slurm(execution: ExecutionConfig) -> str:
    return (
        f"execution.nodes is {execution.nodes}, and this is no SLURM job: run it with --profile "
        "profiles/slurm, or set execution.nodes to 1"
    )


def job_shell(config: ExperimentConfig, programs: Path, in_slurm: bool) -> str:
    """Shell text before a job's own command: the environment it needs, and the function `ranks`,
    which runs a command once per rank. A rule's command is the same text whatever the number of
    ranks, so a change of it reruns nothing.

    `programs` is the folder of `sdar` and of `torchrun` where `cluster.environment` names no other.
    """
    before = f'{_STRICT}{_DEAF}export PATH={shlex.quote(str(programs))}:"$PATH"; ' + activation(
        config.cluster
    )
    threads = f"export OMP_NUM_THREADS={config.execution.threads}; "
    if config.execution.ranks == 1:
        return before + f'ranks() {{ {threads}"$@"; }}; '
    if config.execution.nodes > 1 and not in_slurm:
        message = shlex.quote("sdar: " + needs_slurm(config.execution))
        return before + f"ranks() {{ echo {message} >&2; return 2; }}; "
    words = shlex.join(launcher(config.execution, in_slurm))
    if in_slurm:
        # srun is the cluster's, not the container's: each task enters that by itself.
        command = f"""{words} bash -c {shlex.quote(before + '"$@"')} ranks "$@\""""
    else:
        command = in_container(config.cluster, f'{words} "$@"')
    return before + f"ranks() {{ {threads}{command}; }}; "


def warm_start_resources(config: ExperimentConfig) -> dict[str, Any]:
    """As `training_resources`. The tiny policy's warm start is one process on a CPU."""
    if config.policy.model == "tiny":
        return job_resources(config.cluster, "warm_start", on_gpu=False)
    return training_resources(config, "warm_start")


def training_resources(
    config: ExperimentConfig, kind: Literal["train", "warm_start"] = "train"
) -> dict[str, Any]:
    """A training job's Snakemake resources, under the names of its SLURM plugin; `mem_mb` and GPUs
    are those of one node."""
    execution, on_gpu = config.execution, config.execution.device == "cuda"
    job: JobConfig = getattr(config.cluster, kind)
    resources = job_resources(config.cluster, kind, on_gpu)
    if execution.ranks == 1:
        return resources
    gpus = job.gpus
    if gpus is None:
        gpus = execution.processes if on_gpu else 0
    if job.memory_mb is None:
        resources["mem_mb"] *= execution.processes
    # --gpus counts all nodes' GPUs wherever they are, --gres those of each node.
    resources["gpu"] = gpus if execution.nodes == 1 else 0
    if gpus and execution.nodes > 1:
        resources["gres"] = f"gpu:{gpus}"
    return resources | {
        # The plugin wraps other jobs in `srun -n1`; this one calls srun itself.
        "mpi": "srun",
        "nodes": execution.nodes,
        "tasks": execution.ranks,
        "tasks_per_gpu": 0,  # the plugin would ask for `tasks` on each GPU
        "cpus_per_task": execution.threads,
        "slurm_extra": f"{resources['slurm_extra']} --ntasks-per-node={execution.processes}",
    }
