"""Who decides about sharding: the launcher, the configuration's file, or the device."""

from types import SimpleNamespace

import pytest
import scripted
import torch

from sdar.config import parse_config
from sdar.errors import SdarError
from sdar.methods.declarations import get_method
from sdar.policy.log_probs import PolicyScorer
from sdar.policy.paths import set_scoring_path
from sdar.policy.sharding import shard, wants_sharding
from sdar.training.identity import RunIdentity


def decided(path=None, *, ranks=2, device="cpu"):
    execution = {"processes": max(ranks, 2), "accelerate": path and str(path)}
    accelerator = SimpleNamespace(num_processes=ranks, device=torch.device(device))
    return wants_sharding(parse_config({"execution": execution}), accelerator)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)


def test_by_default_ranks_with_gpus_do():
    assert decided(device="cuda")
    assert not decided(device="cpu")


def test_a_single_process_never_does(repository):
    assert not decided(repository / "config/accelerate/fsdp2_node.yaml", ranks=1, device="cuda")


@pytest.mark.parametrize(
    ("name", "sharded"), [("one_gpu", False), ("fsdp2_node", True), ("fsdp2_nodes", True)]
)
def test_the_file_is_asked(name, sharded, repository):
    path = repository / "config" / "accelerate" / f"{name}.yaml"
    assert decided(path, device="cpu" if sharded else "cuda") == sharded


def test_the_launcher_knows_better(repository, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    assert not decided(repository / "config/accelerate/fsdp2_node.yaml", device="cuda")


@pytest.mark.parametrize("text", [None, "num_processes: 2\n", "[", "words"])
def test_a_file_that_says_nothing_is_one_sentence(text, tmp_path):
    path = tmp_path / "launch.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SdarError, match=r"execution\.accelerate: .*launch\.yaml is no launch"):
        decided(path)


def test_the_number_of_ranks_and_what_saves_memory_make_no_other_run(repository):
    def identity(**sections):
        method, inputs = get_method("sdar"), {"policy": "p"}
        return RunIdentity.of_training(parse_config(sections), method, 0, inputs).depends_on

    node = str(repository / "config/accelerate/fsdp2_node.yaml")
    many = {"nodes": 2, "processes": 4, "accelerate": node, "device": "cuda", "threads": 3}
    saving = {"activation_checkpointing": True, "reference": "host"}
    assert identity() == identity(execution=many, training=saving)
    assert identity() != identity(training={"learning_rate": 1e-6})


def test_ranks_that_would_pass_unequally_often_do_not_share_weights():
    model = scripted.policy()
    set_scoring_path(model, "single")
    with pytest.raises(SdarError, match=r"qwen3 model is scored one sequence"):
        shard(PolicyScorer(model), SimpleNamespace(num_processes=2))
