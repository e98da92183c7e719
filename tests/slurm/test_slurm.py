"""The experiment on a real slurmctld with two nodes: undisturbed, preempted, out of time, cancelled
and failing. However a training job is stopped, it ends as the run that was not. `make test-slurm`
"""

import contextlib
import json
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from driving import POLICY, STEPS, Experiment, is_told
from fake_cluster import NODES, FakeCluster, missing_programs, running_cluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SAVED = "sdar: told to stop; what is complete is kept."


def job_logs(experiment: Experiment, job: str) -> str:
    (path,) = (experiment.folder / "logs" / "slurm").rglob(f"{job}.log")
    return path.read_text()


def shown_job(experiment: Experiment) -> dict[str, str]:
    """What SLURM knows of the training job that Snakemake submits."""
    experiment.start(str(POLICY))
    told = experiment.cluster.run("scontrol", "show", "job", experiment.submitted())
    return dict(word.split("=", 1) for word in told.split() if "=" in word)


def test_nothing_is_left_of_a_cluster_whose_test_failed(tmp_path) -> None:
    if missing_programs():
        pytest.skip("SLURM is not installed")

    def fail() -> FakeCluster:
        with running_cluster(tmp_path / "cluster") as cluster:
            job = cluster.submit("--output=/dev/null", "--wrap", "srun sleep 600")
            deadline = time.monotonic() + 120
            daemons = 1 + 1 + len(NODES)
            while cluster.states().get(job) != "RUNNING" or len(cluster.processes()) <= daemons:
                assert time.monotonic() < deadline, cluster.told()
                time.sleep(0.2)
            raise ZeroDivisionError(cluster)

    with pytest.raises(ZeroDivisionError) as caught:
        fail()
    assert caught.value.args[0].processes() == []


def test_the_whole_experiment(finished: Experiment) -> None:
    results = finished.folder / "results" / "two-nodes"
    compared = json.loads((results / "comparison.json").read_text())["results"]
    assert {entry["method"] for entry in compared} == {"warm_start", "skill_prompt", "grpo", "sdar"}
    assert (results / "episodes.html").stat().st_size > 1000
    submitted = finished.output.count("has been submitted with SLURM jobid")
    # tasks, demonstrations, warm start; two trainings; their evaluations and the two baselines'.
    assert submitted == 3 + 2 + 4
    assert set(finished.states.values()) == {"COMPLETED"}
    assert "Nothing to be done" in finished.run("all", seconds=300)


def test_jobs_ask_for_what_is_configured(untrained: Experiment) -> None:
    untrained.configure(
        train={"gpus": 2, "memory_mb": 1234, "minutes": 17, "partition": "low"},
        arguments="--nice=7 --hold",
    )
    shown = shown_job(untrained)
    assert shown["Partition"] == "low"
    assert shown["TimeLimit"] == "00:17:00"
    assert shown["Nice"] == "7"
    assert shown["MinMemoryNode"] == "1234M"
    assert shown["TresPerJob"] == "gres:gpu:2"
    assert shown["Requeue"] == "1"


def test_a_job_on_both_nodes_asks_for_its_share_of_each(untrained: Experiment) -> None:
    untrained.configure(nodes=2, train={"gpus": 2, "memory_mb": 1234}, arguments="--hold")
    shown = shown_job(untrained)
    assert shown["NumNodes"].startswith("2")
    assert shown["NumTasks"] == "2"
    assert shown["NtasksPerN:B:S:C"].split(":")[0] == "1"
    assert shown["CPUs/Task"] == "1"
    assert shown["MinMemoryNode"] == "1234M"
    assert shown["TresPerNode"] == "gres:gpu:2"


def test_a_preempted_job_is_requeued_and_ends_the_same(
    untrained: Experiment, finished: Experiment
) -> None:
    untrained.configure(partition="low")
    untrained.start(str(POLICY), retries=0)
    process = untrained.pause_training(2)
    job = untrained.job_of(process)
    urgent = untrained.cluster.submit(
        "--partition=main", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1"
    )
    untrained.wait_for_state(urgent, "RUNNING", "COMPLETED", seconds=300)
    saved = untrained.newest_checkpoint()
    assert 2 <= saved < STEPS
    assert untrained.steps() == saved
    assert untrained.end(seconds=900) == 0, untrained.told()
    shown = untrained.cluster.run("scontrol", "show", "job", job)
    assert "Restarts=1" in shown
    assert "JobState=COMPLETED" in shown
    untrained.assert_same_run(finished)


def test_near_its_time_limit_a_job_saves_and_another_goes_on(
    untrained: Experiment, finished: Experiment
) -> None:
    untrained.start(str(POLICY))
    process = untrained.pause_training(1)
    job = untrained.job_of(process)
    # Within save_before_end of its limit from now on; SLURM looks every half minute.
    untrained.cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=5")
    # It is woken by what SLURM sends at the warning, and has not been slow to save.
    untrained.wait_for("warning", lambda: is_told(process, signal.SIGUSR1) or None, seconds=300)
    with contextlib.suppress(psutil.NoSuchProcess):
        process.resume()
    assert untrained.wait_for_state(job, "FAILED", "TIMEOUT", seconds=240) == "FAILED"
    assert 2 <= untrained.newest_checkpoint() < STEPS
    assert SAVED in job_logs(untrained, job)
    assert untrained.end(seconds=900) == 0, untrained.told()
    assert untrained.output_so_far().count("has been submitted with SLURM jobid") == 2
    untrained.assert_same_run(finished)


def test_out_of_time_it_saves_in_what_slurm_leaves_it(
    untrained: Experiment, finished: Experiment
) -> None:
    """A job of one's own, without a warning before the limit: there is SIGTERM, then KillWait."""
    program = Path(sys.executable).with_name("sdar")
    options = "--method sdar --seed 0 --config runs/two-nodes/config.yaml --root ."
    log = untrained.folder / "own.log"
    job = untrained.cluster.submit(
        "--time=10",
        f"--chdir={untrained.folder}",
        f"--output={log}",
        "--wrap",
        f"srun {sys.executable} {program} train {options}",
    )
    untrained.pause_training(1)
    untrained.cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    untrained.wait_for_state(job, "TIMEOUT", seconds=400)
    assert 2 <= untrained.newest_checkpoint() < STEPS
    assert SAVED in log.read_text()
    untrained.run(str(POLICY), seconds=900)
    untrained.assert_same_run(finished)


def test_cancelled_and_interrupted_and_the_same_in_the_end(
    untrained: Experiment, finished: Experiment
) -> None:
    untrained.configure(tracked=True)
    untrained.start(str(POLICY))
    process = untrained.pause_training(1)
    untrained.interrupt()
    untrained.end(seconds=300)
    assert not (untrained.folder / POLICY).exists()
    process.wait(timeout=240)
    saved = untrained.newest_checkpoint()
    assert saved >= 2, untrained.told()

    untrained.start(str(POLICY))  # the same command
    process = untrained.pause_training(saved + 1)
    job = untrained.job_of(process)
    untrained.cluster.run("scancel", job)
    untrained.wait_for_state(job, "CANCELLED", seconds=900)
    process.wait(timeout=240)
    assert untrained.newest_checkpoint() > saved
    assert SAVED in job_logs(untrained, job)
    assert untrained.end(seconds=900) == 0, untrained.told()
    untrained.assert_same_run(finished)


def test_the_log_of_a_failing_job_is_shown(untrained: Experiment) -> None:
    policy = Path("runs") / "two-nodes" / "warm_start" / "policy"
    weights = untrained.folder / policy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    output = untrained.run(str(POLICY), seconds=900, expected=1, retries=0)
    assert f"sdar: {policy}: the policy cannot be loaded" in output
    assert "logs/two-nodes/train/sdar-0.log" in output
    assert "SLURM status is: 'FAILED'" in output
