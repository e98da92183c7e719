"""Training on two ranks (real processes, gloo) is training on one.

See `ranks_world`. All runs that end well are made by one start of torchrun.
"""

import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jobs_of_ranks
import polars as pl
import pytest
import ranks_world
import torch
from double_precision import double_precision
from jobs_of_ranks import distance, environment, weights
from safetensors.torch import load_file

from sdar.files import lines
from sdar.ranks.lifeline import LOST_EXIT_CODE

SCRIPT = Path(ranks_world.__file__)
ROOT = SCRIPT.parent.parent
# Nine episodes on two ranks, minibatches of at most seven samples, of which one rank gets three.
ODD = {"tasks_per_step": 3, "group_size": 3, "minibatch": 7, "micro_batch": 2}
# One sample per optimizer step: one of the ranks has none. One episode per rank.
ONE_AT_A_TIME = {"tasks_per_step": 1, "group_size": 2, "minibatch": 1, "micro_batch": 1}
# A single episode: one of the ranks plays none.
ALONE = {
    "tasks_per_step": 1,
    "group_size": 1,
    "normalize_by_std": False,
    "minibatch": 2,
    "micro_batch": 1,
}
LORA = {"rank": 4, "alpha": 8}
CASES: dict[str, dict[str, Any]] = {
    "grpo": {"method": "grpo"},
    "sdar": {},
    "reverse_kl_full": {"method": "reverse_kl_full"},
    "odd": {"training": ODD},
    "one at a time": {"method": "sdar_adaptive", "training": ONE_AT_A_TIME},
    "alone": {"method": "reverse_kl_full", "training": ALONE},
    "sequences": {"training": ODD | {"loss_aggregation": "seq-mean-token-mean"}},
    "lora": {"training": {"lora": LORA}},
    "part taught": {"training": ODD | {"distillation": {"share": 0.3}}},
    "part taught in full": {
        "method": "reverse_kl_full",
        "training": ONE_AT_A_TIME | {"distillation": {"share": 0.3}},
    },
    "untied": {"tied": False, "method": "reverse_kl_full"},
    "continuous": {"rollout": {"schedule": "continuous"}},
    "less memory": {"training": {"activation_checkpointing": True, "reference": "host"}},
}
EVERYWHERE = (
    *("sdar", "odd", "one at a time", "alone", "lora", "continuous"),
    *("part taught", "part taught in full"),
)
REPLICATED = (*EVERYWHERE, "grpo", "reverse_kl_full", "sequences")
SHARDED = (*EVERYWHERE, "untied", "less memory")


def jobs_of(names: Any, prefix: str = "", **more: Any) -> list[dict[str, Any]]:
    return [{"name": prefix + name, **CASES[name], **more} for name in names]


start = partial(jobs_of_ranks.start, SCRIPT)
command = partial(jobs_of_ranks.command, SCRIPT)


def run_folder(root: Path, job: dict[str, Any]) -> Path:
    return root / job["name"] / "runs" / "world" / job.get("method", "sdar") / "seed-0"


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    root = tmp_path_factory.mktemp("one")
    done = start(root, jobs_of(CASES), ranks=1)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    root = tmp_path_factory.mktemp("two")
    jobs = [
        *jobs_of(REPLICATED),
        *jobs_of(SHARDED, "sharded ", sharded=True),
        {"name": "no sum", "mistake": "no sum"},
        {"name": "short share", "mistake": "short share"},
        {"name": "own denominator", "mistake": "own denominator", "training": ODD},
        {"name": "no number", "mistake": "no number"},
        {"name": "sharded no number", "mistake": "no number", "sharded": True},
    ]
    done = start(root, jobs)
    assert done.returncode == 0, done.stderr
    return root


def assert_same_run(one: Path, two: Path, metric: float) -> None:
    """The same weights nearly to rounding, and the same files."""
    assert distance(one, two) < 1e-8
    ours, theirs = (lines.read(folder / "metrics.jsonl") for folder in (one, two))
    assert len(ours) == len(theirs) == 3
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for name, value in mine.items():
            if name.startswith("policy/engine_difference") or name == "update/padding_share":
                continue  # of another engine; of other micro-batches
            assert other[name] == (
                pytest.approx(value, abs=metric) if isinstance(value, float) else value
            ), name
    names = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    assert names == {path.relative_to(two) for path in two.rglob("*") if path.is_file()}
    episodes = [pl.read_parquet(folder / "episodes.parquet") for folder in (one, two)]
    assert episodes[0].equals(episodes[1])


@pytest.mark.parametrize("case", REPLICATED)
def test_two_ranks_train_as_one(case, one, two):
    (job,) = jobs_of([case])
    assert_same_run(run_folder(one, job), run_folder(two, job), 1e-9)


@pytest.mark.parametrize("case", SHARDED)
def test_two_ranks_with_sharded_weights_train_as_one(case, one, two):
    (job,) = jobs_of([case])
    sharded = {**job, "name": f"sharded {case}"}
    assert_same_run(run_folder(one, job), run_folder(two, sharded), 1e-6)


@pytest.mark.parametrize("mistake", ["no sum", "own denominator"])
def test_mistake_shows(mistake, one, two):
    right = {"no sum": "sdar", "own denominator": "odd"}[mistake]
    assert distance(run_folder(one, {"name": right}), run_folder(two, {"name": mistake})) > 1e-4


def test_a_ten_thousandth_of_a_rank_shows(one, two):
    whole, short = run_folder(one, {"name": "sdar"}), run_folder(two, {"name": "short share"})
    assert distance(whole, short) > 1e-7, "ten times what equal runs may differ by"


def test_what_is_no_number_on_one_rank_is_skipped_by_all(two):
    folders = [run_folder(two, {"name": name}) for name in ("no number", "sharded no number")]
    for folder in folders:
        records = lines.read(folder / "metrics.jsonl")
        minibatches = records[1]["update/minibatches"]
        assert [record["update/skipped"] for record in records] == [0, minibatches, 0]
        assert all(torch.isfinite(value).all() for value in weights(folder).values())
    assert distance(*folders) < 1e-8


def test_what_saves_memory_changes_nothing(one):
    plain, saving = (run_folder(one, {"name": name}) for name in ("sdar", "less memory"))
    assert distance(plain, saving) < 1e-12


def test_lora_is_exported_whole_and_loads_without_peft(one, two):
    from transformers import AutoModelForCausalLM

    with double_precision():
        start_of_run = ranks_world.policy(tied=True).state_dict()
    for folder in (run_folder(one, {"name": "lora"}), run_folder(two, {"name": "sharded lora"})):
        assert sorted(p.name for p in (folder / "policy").iterdir()) == sorted(
            p.name for p in (run_folder(one, {"name": "sdar"}) / "policy").iterdir()
        )
        loaded = AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float64)
        saved = load_file(folder / "checkpoints" / "step-00003" / "model.safetensors")
        assert saved
        assert all(".lora_" in name for name in saved), "the base is not saved again and again"
        changed = 0
        for name, value in loaded.state_dict().items():
            layer = name.removesuffix(".weight")
            expected = start_of_run[name]
            if f"{layer}.lora_A.default.weight" in saved:
                up, down = (saved[f"{layer}.lora_{part}.default.weight"] for part in "BA")
                expected = expected + LORA["alpha"] / LORA["rank"] * up @ down
                changed += 1
            assert torch.allclose(value, expected, atol=1e-12), name
        assert changed == 2 * 7, "all linear layers of both decoder layers"


# How it ends, and goes on.


def test_a_rank_killed_in_mid_step_ends_the_job_and_the_job_goes_on(two, tmp_path):
    job = {"name": "killed", "training": {"checkpoint_every": 1}}
    began = time.monotonic()
    died = start(tmp_path, [{**job, "kill": [1, 8]}])
    assert died.returncode != 0
    assert time.monotonic() - began < 60
    assert f"exitcode  : {-signal.SIGKILL}" in died.stderr
    folder = run_folder(tmp_path, job)
    # In the third step. A rank that saves nothing does not wait for the one that is saving.
    complete = [path.name for path in (folder / "checkpoints").glob("step-*")]
    assert complete
    assert set(complete) <= {"step-00001", "step-00002"}
    again = start(tmp_path, [job])
    assert again.returncode == 0, again.stderr
    expected = run_folder(two, {"name": "sdar"})
    for name in ("metrics.jsonl", "policy/model.safetensors"):
        assert (folder / name).read_bytes() == (expected / name).read_bytes(), name


@pytest.mark.parametrize("sharded", [False, True])
def test_one_rank_told_to_stop_stops_all_and_one_process_goes_on(sharded, one, tmp_path):
    job = {"name": "stopped", "sharded": sharded}
    done = start(tmp_path, [{**job, "stop": [1, 4]}])
    assert done.returncode == 0, done.stderr
    assert all(f"rank {rank} stopped" in done.stdout for rank in (0, 1))
    folder = run_folder(tmp_path, job)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00002"]
    assert not (folder / "policy").exists()
    alone = start(tmp_path, [job], ranks=1)
    assert alone.returncode == 0, alone.stderr
    assert len(lines.read(folder / "metrics.jsonl")) == 3
    assert distance(run_folder(one, {"name": "sdar"}), folder) < 1e-8


def test_a_checkpoint_of_one_process_goes_on_sharded(one, tmp_path):
    job = {"name": "one", "sharded": True}
    done = start(tmp_path, [{**job, "stop": [0, 4]}], ranks=1)
    assert "rank 0 stopped" in done.stdout
    both = start(tmp_path, [job])
    assert both.returncode == 0, both.stderr
    assert distance(run_folder(one, {"name": "sdar"}), run_folder(tmp_path, job)) < 1e-8


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        # Rank 0 waits for rank 1, or is far from any wait: asleep in its environment.
        ({"kill": [1, 5]}, None, "rank 1 has ended before its work was done"),
        ({"kill": [1, 5], "sleep": [0, 5]}, LOST_EXIT_CODE, "rank 1 has ended before"),
        ({"fail": [1, 5], "sleep": [0, 5]}, LOST_EXIT_CODE, "rank 1 has ended before"),
        ({"kill": [0, 5], "sleep": [1, 5]}, LOST_EXIT_CODE, "rank 0 has ended before"),
    ],
)
def test_a_dead_rank_ends_the_others_without_a_launcher(what, code, words, tmp_path):
    """As on two machines: nobody sees both processes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    script = command(tmp_path, [{"name": "dead", **what}])
    dead = next(iter(what.values()))[0]
    processes = [
        subprocess.Popen(
            [sys.executable, *script],
            env=environment(**place, RANK=str(rank), LOCAL_RANK=str(rank)),
            stderr=(tmp_path / f"rank-{rank}").open("w"),
        )
        for rank in (0, 1)
    ]
    try:
        processes[dead].wait(120)
        gone = time.monotonic()
        left = processes[1 - dead].wait(60)
        took = time.monotonic() - gone
    finally:
        for process in processes:
            process.kill()
    assert left == code if code is not None else left != 0
    assert took < 30
    assert words in (tmp_path / f"rank-{1 - dead}").read_text()


def test_accelerate_launch_with_the_configuration_of_a_node(one, tmp_path):
    """The file's distributed_type decides: `sharded` of the job is not consulted."""
    done = subprocess.run(
        [
            *[sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"],
            *["--config_file", str(ROOT / "config" / "accelerate" / "fsdp2_node.yaml")],
            *["--main_process_port", "0"],
            *command(tmp_path, [{"name": "launched", "sharded": None}]),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert "sharded: True" in done.stdout
    launched = run_folder(tmp_path, {"name": "launched"})
    assert distance(run_folder(one, {"name": "sdar"}), launched) < 1e-8
