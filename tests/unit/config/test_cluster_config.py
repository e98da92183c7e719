"""The `cluster` section: what a job asks SLURM for, and the shell text that activates."""

import shlex
import subprocess
from pathlib import Path

import pytest

from sdar.config import ExperimentConfig, parse_config
from sdar.config.cluster import ClusterConfig, activation, job_resources
from sdar.errors import SdarError


def test_by_default_the_cluster_chooses_all_but_size_and_time() -> None:
    assert job_resources(ClusterConfig(), "small", on_gpu=True) == {
        "mem_mb": 2000,
        "runtime": 60,
        "gpu": 0,
    }
    small = job_resources(ClusterConfig(), "train", on_gpu=False)
    large = job_resources(ClusterConfig(), "train", on_gpu=True)
    assert (small["gpu"], large["gpu"]) == (0, 1)
    assert small["mem_mb"] < large["mem_mb"]
    assert small["slurm_extra"] == "--signal=USR1@300"
    assert {"slurm_partition", "slurm_account", "qos", "constraint"}.isdisjoint(large)


def test_what_is_configured_is_asked_for() -> None:
    cluster = ClusterConfig.model_validate(
        {
            "partition": "cpu",
            "account": "proj",
            "qos": "long",
            "constraint": "h100",
            "arguments": "--reservation=course",
            "save_before_end": 900,
            "train": {"partition": "gpu", "gpus": 1, "memory_mb": 5, "minutes": 7},
        }
    )
    assert job_resources(cluster, "train", on_gpu=False) == {
        "mem_mb": 5,
        "runtime": 7,
        "gpu": 1,
        "slurm_partition": "gpu",
        "slurm_account": "proj",
        "qos": "long",
        "constraint": "h100",
        "slurm_extra": "--reservation=course --signal=USR1@900",
    }
    assert job_resources(cluster, "evaluate", on_gpu=True)["slurm_partition"] == "cpu"
    assert job_resources(cluster, "small", on_gpu=True)["slurm_extra"] == "--reservation=course"


def test_options_of_sbatch_are_words_to_a_shell() -> None:
    """The plugin writes them into a command line as they are."""
    given = "--nice=7; touch PWNED --comment='two words' $(x)"
    cluster = parse_config({"cluster": {"arguments": given}}).cluster
    said = job_resources(cluster, "small", on_gpu=False)["slurm_extra"]
    assert shlex.split(said) == shlex.split(given)
    assert said.startswith("'--nice=7;' touch PWNED '--comment=two words' '$(x)'")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"arguments": "--mem=5G"}, "cluster.arguments: holds --mem: set cluster.train.memory_mb"),
        ({"arguments": "--comment='open"}, "cluster.arguments: is not a list of options"),
        ({"arguments": "-p gpu"}, "set cluster.partition instead"),
        ({"arguments": "--nodes=2"}, "set execution.nodes instead"),
        ({"environment": " "}, "cluster.environment: is empty"),
        ({"train": {"gpu": 1}}, "cluster.train.gpu: unknown key (did you mean gpus?)"),
        ({"save_before_end": 0}, "cluster.save_before_end"),
    ],
)
def test_mistakes_are_named_with_their_remedy(values: dict, says: str) -> None:
    with pytest.raises(SdarError) as caught:
        parse_config({"cluster": values})
    assert says in str(caught.value)


def job(environment: str | None, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """How a job ends whose command is `sdar 'two words'`, in a shell as Snakemake makes it."""
    program = tmp_path / "sdar"
    program.write_text('#!/bin/sh\necho "${MODULE:-none} ${IMAGE:-none} $# $1"\n')
    program.chmod(0o755)
    command = activation(ClusterConfig(environment=environment)) + "sdar 'two words'"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (None, "none none 1 two words"),
        ("export MODULE=cuda && :", "cuda none 1 two words"),
        ('[ -z "$UNSET" ]; x=cuda; export MODULE="${x}"', "cuda none 1 two words"),
        ("env IMAGE=sdar.sif {command}", "none sdar.sif 1 two words"),
    ],
)
def test_the_environment_is_activated_or_runs_the_command(
    environment: str | None, said: str, tmp_path: Path
) -> None:
    assert job(environment, tmp_path).stdout.strip() == said


def test_a_failed_activation_ends_the_job(tmp_path: Path) -> None:
    done = job("false && export MODULE=cuda", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "cluster.environment failed" in done.stderr


def test_the_cluster_changes_no_result() -> None:
    """Where a job runs is no part of what MLflow compares runs by."""
    from sdar.tracking.describe import parameters

    plain = ExperimentConfig()
    elsewhere = parse_config({"cluster": {"partition": "gpu"}})
    assert parameters(plain, "train") == parameters(elsewhere, "train")
