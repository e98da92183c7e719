"""Training by a rank on each of two nodes, started by srun: the same as one process, the same when
it is stopped, and over soon when a rank dies."""

import contextlib
import signal
import time
from pathlib import Path

import first_update
import psutil
import pytest
from driving import POLICY, RUN, STEPS, Experiment, is_told

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SAVED = "sdar: told to stop; what is complete is kept."


def test_two_nodes_train_what_one_process_does(finished: Experiment, tmp_path: Path) -> None:
    """Their first update; see `first_update`."""
    alone, spread = (finished.copy_without_run(tmp_path / name) for name in ("alone", "spread"))
    for experiment, nodes in ((alone, 1), (spread, 2)):
        experiment.configure(nodes=nodes, training=first_update.ONE_UPDATE)
        experiment.run(str(POLICY), seconds=600)
    first_update.assert_same_first_update(spread.folder / RUN, alone.folder / RUN)


def test_two_nodes_train_to_the_end(on_both_nodes: Experiment) -> None:
    assert on_both_nodes.steps() == STEPS


def test_stopped_and_with_a_rank_killed_and_the_same_in_the_end(
    untrained: Experiment, on_both_nodes: Experiment
) -> None:
    untrained.configure(nodes=2)
    untrained.start(str(POLICY))
    first = untrained.pause_training(1)
    job = untrained.job_of(first)
    other = untrained.rank(1)
    assert other is not None
    assert {p.environ()["SLURMD_NODENAME"] for p in (first, other)} == {"n1", "n2"}
    # Within save_before_end of its limit from now on; both ranks are told.
    untrained.cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=5")
    untrained.wait_for("warning", lambda: is_told(first, signal.SIGUSR1) or None, seconds=300)
    with contextlib.suppress(psutil.NoSuchProcess):
        first.resume()
    assert untrained.wait_for_state(job, "FAILED", "TIMEOUT", seconds=240) == "FAILED"
    saved = untrained.newest_checkpoint()
    assert 2 <= saved < STEPS
    assert untrained.steps() == saved
    assert SAVED in (untrained.folder / "logs/slurm/rule_train/sdar_0" / f"{job}.log").read_text()

    # The next attempt has its first rank stopped in mid step, and the other one killed.
    first = untrained.pause_training(saved + 1)
    job = untrained.job_of(first)
    other = untrained.rank(1)
    assert other is not None
    other.kill()
    killed = time.monotonic()
    first.resume()
    assert untrained.wait_for_state(job, "FAILED", "TIMEOUT", seconds=240) == "FAILED"
    assert time.monotonic() - killed < 60
    assert untrained.newest_checkpoint() == saved

    assert untrained.end(seconds=900) == 0, untrained.told()
    assert untrained.output_so_far().count("has been submitted with SLURM jobid") == 3
    untrained.assert_same_run(on_both_nodes)
