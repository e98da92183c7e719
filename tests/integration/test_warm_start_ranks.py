"""A warm start on two ranks (real processes, gloo), replicated or sharded, is that on one.

See `warm_ranks_world`. All that end are made by one start of torchrun.
"""

from pathlib import Path
from typing import Any

import jobs_of_ranks
import pretrained_world
import pytest
import torch
import warm_ranks_world
from jobs_of_ranks import distance, weights
from pretrained_world import DAGGER, LORA
from safetensors.torch import load_file

from sdar.config import Layout
from sdar.files import lines
from sdar.training.demonstrations import make_demonstrations, read_demonstrations

pytestmark = pytest.mark.slow
SCRIPT = Path(warm_ranks_world.__file__)
CASES: dict[str, dict[str, Any]] = {
    "full": {},
    # Seven samples, of which one rank gets three; one sample, of which one gets none.
    "odd": {"warm_start": {"batch": 7, "micro_batch": 2}},
    "alone": {"warm_start": {"batch": 1, "updates": 4}},
    "lora": {"warm_start": {"lora": LORA}},
    "dagger": {"warm_start": {"updates": 4, "dagger": DAGGER}},
    "less memory": {"values": {"training": {"activation_checkpointing": True, "micro_batch": 2}}},
}


def start(root: Path, jobs: list[dict[str, Any]], ranks: int) -> str:
    done = jobs_of_ranks.start(SCRIPT, root, jobs, ranks)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each case was run on one rank, on two, and on two with sharded weights."""
    root = tmp_path_factory.mktemp("ranks")
    model = pretrained_world.save_model(root / "model")
    make_demonstrations(pretrained_world.configuration(model), Layout(root, "pretrained"))
    jobs = [{**job, "name": f"one {name}"} for name, job in CASES.items()]
    start(root, jobs, 1)
    start(root, two_ranks(), 2)
    return root


def two_ranks() -> list[dict[str, Any]]:
    return [
        {**job, "name": f"{how} {name}", "sharded": how == "sharded"}
        for name, job in CASES.items()
        for how in ("replicated", "sharded")
    ]


def folder(root: Path, name: str) -> Path:
    return Layout(root / name, "pretrained").warm_start


@pytest.mark.parametrize("how", ["replicated", "sharded"])
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_learn_as_one(case: str, how: str, root: Path) -> None:
    one, two = folder(root, f"one {case}"), folder(root, f"{how} {case}")
    assert distance(one, two) < 1e-9
    ours, theirs = (lines.read(path / "metrics.jsonl") for path in (one, two))
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        assert list(mine.values()) == pytest.approx(list(other.values()), abs=1e-9)
    if case == "dagger":
        path = Path("relabelled") / "round-1.parquet"
        played = [read_demonstrations(path_ / path) for path_ in (one, two)]
        assert played[0] == played[1]
    names = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    assert names == {path.relative_to(two) for path in two.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("case", "sharded", "first", "then"),
    [("lora", True, 2, 1), ("dagger", True, 2, 1), ("full", False, 1, 2), ("dagger", True, 1, 2)],
)
def test_stopped_on_some_ranks_it_goes_on_with_others(
    case: str, sharded: bool, first: int, then: int, root: Path
) -> None:
    """Any rank may be told to stop; with a round of relabelling, in mid-round."""
    name = f"{case}, {first} to {then}"
    job = {**CASES[case], "name": name, "sharded": sharded}
    said = start(root, [{**job, "stop": [first - 1, 5]}], first)
    assert all(f"rank {rank} stopped" in said for rank in range(first))
    assert not (folder(root, name) / "policy").exists()
    saved = sorted(path.name for path in (folder(root, name) / "checkpoints").iterdir())
    assert saved[-1] == "step-00005"
    start(root, [job], then)
    assert distance(folder(root, f"one {case}"), folder(root, name)) < 1e-9


def test_muon_is_refused_where_matrices_are_in_parts(root: Path) -> None:
    job = {"name": "muon", "sharded": True, "warm_start": {"optimizer": "muon"}}
    with pytest.raises(AssertionError, match=r"warm_start\.optimizer is muon, which needs whole"):
        start(root, [job], 2)


def test_weights_move_at_all(root: Path) -> None:
    before = load_file(root / "model" / "model.safetensors")
    after = weights(folder(root, "one full"))
    assert max(float((before[n] - after[n].to(torch.float32)).abs().max()) for n in before) > 1e-3
