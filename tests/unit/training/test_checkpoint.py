"""Checkpoints: complete or not there, checked when read, unharmed by a failed save."""

import logging
import os
import shutil

import pytest
import scripted
import torch

from sdar.errors import SdarError
from sdar.training.checkpoint import (
    latest_complete,
    load_checkpoint,
    save_checkpoint,
)
from sdar.training.optimizer import make_optimizer


def trained(updates):
    """A policy and its optimizer after so many updates."""
    model = scripted.policy()
    optimizer = make_optimizer(model, 1e-3, 0.1)
    for _ in range(updates):
        update(model, optimizer)
    return model, optimizer


def update(model, optimizer):
    ids = torch.tensor([[5, 6, 7, 8]])
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def save(folder, step, parts, keep=2, **options):
    model, optimizer = parts
    return save_checkpoint(
        folder, step, model=model, optimizer=optimizer, state={"note": step}, keep=keep, **options
    )


def test_continued_training_equals_uninterrupted_training(tmp_path):
    save(tmp_path, 3, trained(3))
    model, optimizer = trained(0)
    checkpoint = latest_complete(tmp_path)
    assert (checkpoint.step, checkpoint.state["note"]) == (3, 3)
    load_checkpoint(checkpoint, model, optimizer)
    update(model, optimizer)
    expected = trained(4)[0].state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert model.lm_head.weight is model.model.embed_tokens.weight, "still tied"


def test_how_a_step_is_taken_goes_by_the_device_and_not_by_the_checkpoint(tmp_path):
    """Written on a GPU, where steps are fused, and continued on a CPU; and the other way round."""
    model, optimizer = trained(2)
    for group in optimizer.param_groups:
        group["fused"] = True
    save(tmp_path, 2, (model, optimizer))
    model, optimizer = trained(0)
    load_checkpoint(latest_complete(tmp_path), model, optimizer)
    assert [group["fused"] for group in optimizer.param_groups] == [None, None]
    update(model, optimizer)
    expected = trained(3)[0].state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_only_the_newest_are_kept(tmp_path):
    parts = trained(1)
    for step in (1, 2, 10):
        save(tmp_path, step, parts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00002", "step-00010"]
    assert latest_complete(tmp_path).step == 10


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 1, trained(1))
    save(tmp_path, 1, trained(2))
    model, optimizer = trained(0)
    load_checkpoint(latest_complete(tmp_path), model, optimizer)
    assert torch.equal(model.lm_head.weight, trained(2)[0].lm_head.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00001"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "state.json"])
def test_a_checkpoint_cut_in_half_is_passed_over_aloud(name, tmp_path, caplog):
    parts = trained(1)
    save(tmp_path, 1, parts)
    newest = save(tmp_path, 2, parts)
    os.truncate(newest / name, (newest / name).stat().st_size // 2)
    with caplog.at_level(logging.WARNING, logger="sdar.training"):
        assert latest_complete(tmp_path).step == 1
    assert "step-00002" in caplog.text
    assert name in caplog.text


def test_nothing_complete_is_none(tmp_path):
    assert latest_complete(tmp_path) is None
    assert latest_complete(tmp_path / "missing") is None
    (tmp_path / "step-00001").mkdir()
    assert latest_complete(tmp_path) is None


def test_failed_save_leaves_everything_as_it_was(tmp_path):
    parts = trained(1)
    save(tmp_path, 1, parts)

    def full_disk(path):
        raise OSError(28, "No space left on device")

    with pytest.raises(SdarError, match=r"No space left on device.*free some space"):
        save(tmp_path, 2, parts, extra=full_disk)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00001"]
    assert latest_complete(tmp_path).step == 1


def test_leftovers_of_a_killed_save_are_no_checkpoint(tmp_path):
    parts = trained(1)
    done = save(tmp_path, 1, parts)
    shutil.copytree(done, tmp_path / ".step-00002.partial")
    assert latest_complete(tmp_path).step == 1
    save(tmp_path, 2, parts)
    assert latest_complete(tmp_path).step == 2
    assert not (tmp_path / ".step-00002.partial").exists()


def test_weight_decay_spares_vectors():
    groups = make_optimizer(scripted.policy(), 1e-3, 0.1).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert all(p.dim() >= 2 for p in groups[0]["params"])
    assert all(p.dim() == 1 for p in groups[1]["params"])
