"""Configuration of the cluster: what each job asks SLURM for. Used by `profiles/slurm` alone."""

import shlex
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator

from sdar.section import Changes, Section

JobKind = Literal["small", "warm_start", "train", "evaluate"]

# Minutes: without and with a GPU. Days on a GPU; a job that needs longer is continued.
_MINUTES = {
    "small": (60, 60),
    "warm_start": (240, 1440),
    "train": (240, 4320),
    "evaluate": (120, 720),
}
_MEMORY_MB = {"small": (2000, 2000)}
_USUAL_MEMORY_MB = (3000, 64000)
# Options of sbatch that have a key here, or that Snakemake's plugin sets itself.
_TAKEN = {
    "cluster.partition": ("--partition", "-p"),
    "cluster.account": ("--account", "-A"),
    "cluster.qos": ("--qos", "-q"),
    "cluster.constraint": ("--constraint", "-C"),
    "cluster.train.gpus": ("--gpus", "-G", "--gres"),
    "cluster.train.memory_mb": ("--mem",),
    "cluster.train.minutes": ("--time", "-t"),
    "cluster.save_before_end": ("--signal",),
    "execution.nodes": ("--nodes", "-N"),
    "execution.processes": ("--ntasks", "-n", "--ntasks-per-node"),
    "execution.threads": ("--cpus-per-task", "-c"),
}


class JobConfig(Section):
    """What one kind of job asks for; null: what suits execution.device."""

    unmarked: ClassVar[Changes] = "nothing"

    gpus: Annotated[int, Field(ge=0)] | None = None
    """Per node. Null: 1 where execution.device is cuda (where there are ranks: one for each), else
    0, as for the tiny policy's warm start."""
    memory_mb: PositiveInt | None = None
    """Per node. Null: 64 GB per rank with a GPU, 3 GB where there is none."""
    minutes: PositiveInt | None = None
    """Run time limit."""
    partition: str | None = None
    """Null: that of all jobs."""


class ClusterConfig(Section):
    """What jobs ask SLURM for, and how they find their programs: see docs/cluster.md. Null leaves
    the choice to the cluster."""

    unmarked: ClassVar[Changes] = "nothing"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    """Features a node must have, such as `a100|h100`."""
    arguments: str = ""
    """More options of sbatch, such as `--reservation=course --exclude=node7`."""
    environment: str | None = None
    """Null: jobs use the Python that runs Snakemake. A shell command to run before each job's own,
    such as `module load cuda && source /proj/venv/bin/activate`; or, with `{command}` in it, one
    that runs the job's, such as `apptainer exec --nv /proj/sdar.sif {command}`."""
    save_before_end: PositiveInt = 300
    """Seconds before its time limit at which a job is told to save and end (SIGUSR1): more than a
    training step and a checkpoint take. The job is then submitted again and continues."""
    small: JobConfig = JobConfig()
    """Tasks and demonstrations."""
    warm_start: JobConfig = JobConfig()
    """Of a pretrained model: like a training job."""
    train: JobConfig = JobConfig()
    evaluate: JobConfig = JobConfig()

    @field_validator("arguments")
    @classmethod
    def _no_key_twice(cls, value: str) -> str:
        try:
            words = shlex.split(value)
        except ValueError as error:
            raise ValueError(f"is not a list of options ({error}): close the quotes") from None
        for option in (word.split("=")[0] for word in words):
            for key, options in _TAKEN.items():
                if option in options:
                    raise ValueError(f"holds {option}: set {key} instead")
        return value

    @field_validator("environment")
    @classmethod
    def _says_something(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("is empty: give a shell command, or null")
        return value


def job_resources(cluster: ClusterConfig, kind: JobKind, on_gpu: bool) -> dict[str, Any]:
    """A job's Snakemake resources, under the names of its SLURM plugin; what is null is left out.

    `mem_mb` in MB, `runtime` in minutes, `gpu` a number of GPUs.
    """
    job: JobConfig = getattr(cluster, kind)
    gpus = int(on_gpu and kind != "small") if job.gpus is None else job.gpus
    # The plugin hands these to a shell as they are: quoted, they are options and nothing else.
    options = [shlex.join(shlex.split(cluster.arguments))]
    if kind != "small":
        # Without B: the signal goes to the job's processes; with it, to the batch shell, which
        # dies of it and takes the job along.
        options.append(f"--signal=USR1@{cluster.save_before_end}")
    resources = {
        "mem_mb": job.memory_mb or _MEMORY_MB.get(kind, _USUAL_MEMORY_MB)[on_gpu],
        "runtime": job.minutes or _MINUTES[kind][on_gpu],
        "gpu": gpus,
        "slurm_partition": job.partition or cluster.partition,
        "slurm_account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "slurm_extra": " ".join(filter(None, options)) or None,
    }
    return {name: value for name, value in resources.items() if value is not None}


def activation(cluster: ClusterConfig) -> str:
    """Shell text that activates the environment, or makes `sdar` run in the container; empty where
    neither is configured."""
    if cluster.environment is None:
        return ""
    if "{command}" in cluster.environment:
        # A shell function of that name: the rules' own commands stay what they are.
        inside = in_container(cluster, 'sdar "$@"')
        return f"sdar() {{ {inside}; }}; "
    # Activation scripts read variables that are not set; a failed one must not go unnoticed.
    failed = shlex.quote("sdar: cluster.environment failed; correct it (see above)")
    remedy = f"{{ echo {failed} >&2; exit 2; }}"
    return f"set +u; {cluster.environment} || {remedy}; set -u; "


def in_container(cluster: ClusterConfig, command: str) -> str:
    """A command as the container runs it, where `cluster.environment` names one."""
    environment = cluster.environment or ""
    return environment.replace("{command}", command) if "{command}" in environment else command
