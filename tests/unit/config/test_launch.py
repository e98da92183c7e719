"""The command that starts a training job, and how its ranks find each other."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from sdar.config import ExperimentConfig, parse_config
from sdar.config.cluster import job_resources
from sdar.config.launch import (
    job_shell,
    launcher,
    training_resources,
    warm_start_resources,
)
from sdar.errors import SdarError
from sdar.ranks.rendezvous import first_node, fit_local_rank, join_ranks


def config(nodes: int, processes: int, device: str = "cpu", **cluster: object) -> ExperimentConfig:
    execution = {"nodes": nodes, "processes": processes, "threads": 3, "device": device}
    return parse_config({"execution": execution, "cluster": cluster})


def test_a_single_process_is_started_by_nobody() -> None:
    for device in ("cpu", "cuda"):
        one = config(1, 1, device)
        assert launcher(one.execution, in_slurm=True) == []
        assert launcher(one.execution, in_slurm=False) == []
        usual = job_resources(one.cluster, "train", on_gpu=device == "cuda")
        assert training_resources(one) == usual


@pytest.mark.parametrize("in_slurm", [False, True])
def test_a_single_process_has_its_threads(in_slurm: bool, tmp_path: Path) -> None:
    command = "bash -c 'echo $OMP_NUM_THREADS'"
    done = run_job(config(1, 1), tmp_path, in_slurm, command)
    assert (done.stdout, done.returncode) == ("3\n", 0), done.stderr


@pytest.mark.parametrize("name", ['a"b', "a'b", "a $(touch PWNED)", "a`touch PWNED`", "a;b"])
def test_programs_may_lie_in_any_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    done = run_job(config(1, 1), folder, False)
    assert (done.stdout, done.returncode) == ("sdar [] [] 2 two words\n", 0), done.stderr
    assert not list(tmp_path.rglob("PWNED"))


def test_several_machines_need_slurm() -> None:
    with pytest.raises(SdarError, match=r"execution.nodes is 2, .*profiles/slurm.* set .* to 1"):
        launcher(config(2, 1).execution, in_slurm=False)


def run_job(
    shown: ExperimentConfig, folder: Path, in_slurm: bool, command: str = "sdar train 'two words'"
) -> subprocess.CompletedProcess[str]:
    """Run a training job's shell text with stand-ins for the launchers: each says its options, then
    runs what it is given."""
    for name in ("srun", "torchrun"):
        program = folder / name
        program.write_text(
            f"#!/bin/bash\necho {name} [$IMAGE]\n"
            'while [[ $1 == --* ]]; do echo "$1"; shift; done; exec "$@"\n'
        )
        program.chmod(0o755)
    program = folder / "sdar"
    program.write_text('#!/bin/sh\necho "sdar [$IMAGE] [$MODULE] $# $2"\n')
    program.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin"} | ({"SLURM_JOB_ID": "7"} if in_slurm else {})
    return subprocess.run(
        ["bash", "-c", job_shell(shown, folder, in_slurm) + "ranks " + command],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


@pytest.mark.parametrize(
    ("environment", "outside", "inside"),
    [
        (None, "[]", "[] []"),
        ("export MODULE=cuda", "[]", "[] [cuda]"),
        ("env IMAGE=x.sif {command}", "[]", "[x.sif] []"),
    ],
)
def test_srun_starts_ranks_which_enter_the_environment(
    environment: str | None, outside: str, inside: str, tmp_path: Path
) -> None:
    done = run_job(config(2, 4, environment=environment), tmp_path, in_slurm=True)
    assert done.returncode == 0, done.stderr
    first, *options, last = done.stdout.splitlines()
    assert first == f"srun {outside}"
    assert {"--nodes=2", "--ntasks=8", "--ntasks-per-node=4", "--cpus-per-task=3"} < set(options)
    assert {"--kill-on-bad-exit=1", "--wait=0"} < set(options)
    assert last == f"sdar {inside} 2 two words"


@pytest.mark.parametrize(
    ("environment", "outside", "inside"),
    [
        ("export MODULE=cuda", "[]", "[] [cuda]"),
        ("env IMAGE=x.sif {command}", "[x.sif]", "[x.sif] []"),
    ],
)
def test_torchrun_starts_ranks_within_the_environment(
    environment: str, outside: str, inside: str, tmp_path: Path
) -> None:
    done = run_job(config(1, 4, environment=environment), tmp_path, in_slurm=False)
    assert done.returncode == 0, done.stderr
    first, *options, last = done.stdout.splitlines()
    assert first == f"torchrun {outside}"
    assert {"--standalone", "--nproc-per-node=4"} < set(options)
    assert last == f"sdar {inside} 2 two words"


def test_a_job_on_several_machines_without_slurm_says_what_to_do(tmp_path: Path) -> None:
    done = run_job(config(2, 1), tmp_path, in_slurm=False)
    assert done.returncode == 2
    assert "sdar: execution.nodes is 2" in done.stderr


def test_a_rank_that_ends_with_a_code_ends_the_job_with_it(tmp_path: Path) -> None:
    done = run_job(config(2, 1), tmp_path, in_slurm=True, command="bash -c 'exit 75'")
    assert done.returncode == 75


@pytest.mark.parametrize(("nodes", "processes"), [(1, 4), (2, 1), (2, 4)])
def test_what_spread_jobs_ask_slurm_for(nodes: int, processes: int) -> None:
    resources = training_resources(config(nodes, processes, "cuda", account="proj"))
    assert (resources["nodes"], resources["tasks"]) == (nodes, nodes * processes)
    assert resources["cpus_per_task"] == 3
    extra = f"--signal=USR1@300 --ntasks-per-node={processes}"
    assert resources["slurm_extra"] == extra
    # On each node, whichever option carries it; the plugin must not ask for tasks a GPU.
    shown = f"gpu:{resources['gpu']}" if nodes == 1 else resources["gres"]
    assert shown == f"gpu:{processes}"
    assert resources["tasks_per_gpu"] == 0
    assert resources["slurm_account"] == "proj"
    alone = training_resources(config(1, 1, "cuda"))
    assert resources["mem_mb"] == processes * alone["mem_mb"]
    assert "gres" not in training_resources(config(nodes, processes, "cpu"))


def test_the_plugin_makes_of_it_what_is_meant() -> None:
    submit = pytest.importorskip("snakemake_executor_plugin_slurm.submit_string")
    utils = pytest.importorskip("snakemake_executor_plugin_slurm.utils")

    class Resources(dict):  # Snakemake's: keys and attributes
        __getattr__ = dict.__getitem__

    class Job:
        threads = 12
        resources = Resources(training_resources(config(2, 4, "cuda")))

    names = ("run_uuid", "slurm_logfile", "comment_str", "account", "partition", "workdir")
    call = submit.get_submit_command(Job, dict.fromkeys(names, ""))
    call += utils.set_gres_string(Job)
    words = shlex.split(call)
    assert {"--nodes=2", "--ntasks=8", "--ntasks-per-node=4", "--cpus-per-task=3"} < set(words)
    assert "--gres=gpu:4" in words
    assert not [word for word in words if word.startswith(("--gpus", "--ntasks-per-gpu"))]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"execution": {"processes": 4, "device": "cuda"}, "cluster": {"train": {"gpus": 2}}},
            "cluster.train.gpus is 2, but execution.processes is 4",
        ),
    ],
)
def test_impossible_combinations_are_named(values: dict, says: str) -> None:
    with pytest.raises(SdarError) as caught:
        parse_config(values)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node7", "node7"),
        ("n1,n2", "n1"),
        ("n[07-12,15],m1", "n07"),
        ("n[3,5-9]", "n3"),
        ("r[1-2]n[4-8]-ib", "r1n4-ib"),
        ("gpu-a100-[001-004]", "gpu-a100-001"),
    ],
)
def test_the_first_node(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


def step_environment(rank: int = 5) -> dict[str, str]:
    """What srun tells the sixth of eight tasks on two nodes."""
    return {
        "SLURM_JOB_ID": "1234567",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank % 4),
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
        "SLURM_STEP_NODELIST": "gpu[03-04]",
        "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.3",
    }


def test_ranks_meet_at_the_first_node() -> None:
    environment = step_environment()
    join_ranks(2, 4, environment, resolves=lambda name: True)
    expected = {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "gpu03",
        "MASTER_PORT": "24567",
    }
    assert {name: environment[name] for name in expected} == expected
    again = dict(environment)
    join_ranks(2, 4, again)  # torchrun's, or set before: kept
    assert again == environment

    environment = step_environment()
    join_ranks(2, 4, environment, resolves=lambda name: False)
    assert environment["MASTER_ADDR"] == "10.0.0.3"
    environment = step_environment() | {"MASTER_ADDR": "ib0", "MASTER_PORT": "5"}
    join_ranks(2, 4, environment, resolves=lambda name: True)
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == ("ib0", "5")


@pytest.mark.parametrize(
    ("environment", "ranks", "says"),
    [
        ({}, 8, "1 process(es) started, 8 configured"),
        (step_environment(), 1, "8 process(es) started, 1 configured"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, 1, "2 process(es) started, 1 configured"),
    ],
)
def test_a_wrong_number_of_ranks_ends_before_compute(
    environment: dict[str, str], ranks: int, says: str
) -> None:
    with pytest.raises(SdarError) as caught:
        join_ranks(1, ranks, dict(environment))
    assert says in str(caught.value)


def test_a_single_process_gets_no_variables() -> None:
    # As within a SLURM job of one task, and without srun in one of several.
    for extra in ({}, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, {"SLURM_STEP_NUM_TASKS": "1"}):
        environment = dict(extra)
        join_ranks(1, 1, environment)
        assert environment == extra
    assert "WORLD_SIZE" not in os.environ


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_warm_start_asks_for_what_computes_it(device: str) -> None:
    """A GPU was asked for, which the tiny policy's never used."""
    values = {"execution": {"processes": 4, "nodes": 2, "threads": 3, "device": device}}
    tiny = parse_config(values)
    alone = job_resources(tiny.cluster, "warm_start", on_gpu=False)
    assert warm_start_resources(tiny) == alone
    assert alone["gpu"] == 0
    pretrained = warm_start_resources(parse_config(values | {"policy": {"model": "a/b"}}))
    trained = training_resources(tiny)
    different = {"runtime"}
    assert {k: v for k, v in pretrained.items() if k not in different} == {
        k: v for k, v in trained.items() if k not in different
    }


def test_a_warm_start_of_fewer_gpus_than_ranks_is_refused() -> None:
    values: dict[str, object] = {"execution": {"processes": 4, "device": "cuda"}}
    values["cluster"] = {"warm_start": {"gpus": 2}}
    with pytest.raises(SdarError, match=r"cluster\.warm_start\.gpus is 2, but .* is 4"):
        parse_config(values | {"policy": {"model": "a/b"}})
    parse_config(values)
    parse_config(values | {"policy": {"model": "a/b"}, "warm_start": {"enabled": False}})


@pytest.mark.parametrize(
    ("local", "gpus", "taken"),
    [("1", 1, "0"), ("5", 4, "1"), ("3", 4, "3"), ("0", 1, "0"), ("2", 0, "2"), (None, 1, None)],
)
def test_a_task_that_sees_one_gpu_takes_it(local: str | None, gpus: int, taken: str | None) -> None:
    environment = {} if local is None else {"LOCAL_RANK": local}
    fit_local_rank(gpus, environment)  # --gpus-per-task: each task sees GPU 0 alone
    assert environment.get("LOCAL_RANK") == taken
