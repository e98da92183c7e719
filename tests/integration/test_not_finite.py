"""One number that is not finite costs one optimizer step: no weight, no checkpoint, no run."""

import json
import logging
import math
from pathlib import Path

import polars as pl
import pytest
import torch
import trainer_world
from safetensors.torch import load_file, save_file

from sdar.errors import SdarError
from sdar.training import checkpoint, trainer, updating

# With a minibatch of 64 samples, each step of this world is one optimizer step.
ONE = {"minibatch": 64, "checkpoint_every": 1}


def records(folder: Path) -> list[dict[str, float]]:
    def never(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=never) for line in text.splitlines()]


def skipped(folder: Path) -> list[float]:
    return [record["update/skipped"] for record in records(folder)]


def assert_finite(folder: Path) -> None:
    files = list(folder.rglob("*.safetensors"))
    assert files
    for path in files:
        for name, value in load_file(path).items():
            assert torch.isfinite(value).all(), f"{path}: {name}"
    for path in folder.rglob("optimizer.pt"):
        for of_parameter in torch.load(path)["state"].values():
            assert all(torch.isfinite(value).all() for value in of_parameter.values()), path


def bad_gradients(parts, monkeypatch, *, at, value=math.nan, element=3):
    """One element of one gradient is `value` in these optimizer steps."""
    plain, count = updating.clip_gradients, 0

    def clip(parameters, most):
        nonlocal count
        parameters = list(parameters)
        if count in at:
            parameters[-1].grad.view(-1)[element] = value
        count += 1
        return plain(parameters, most)

    monkeypatch.setattr(updating, "clip_gradients", clip)


def test_usual_runs_skip_nothing(tmp_path):
    assert skipped(trainer_world.run(tmp_path, steps=2)) == [0.0, 0.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_bad_element_of_a_gradient_costs_one_optimizer_step(value, tmp_path, monkeypatch):
    parts = trainer_world.parts()
    bad_gradients(parts, monkeypatch, at={2}, value=value)
    folder = trainer_world.run(tmp_path, given=parts, keep_checkpoints=9, **ONE)
    assert skipped(folder) == [0, 0, 1, 0, 0]
    assert_finite(folder)
    before, after = (
        load_file(folder / "checkpoints" / f"step-{step:05d}" / "model.safetensors")
        for step in (2, 3)
    )
    assert all(torch.equal(before[name], after[name]) for name in before)
    before, after = (
        torch.load(folder / "checkpoints" / f"step-{step:05d}" / "optimizer.pt") for step in (2, 3)
    )
    for index, of_parameter in before["state"].items():
        for name, kept in of_parameter.items():
            assert torch.equal(kept, after["state"][index][name]), "the optimizer is untouched too"
    assert not (folder / "skipped").exists()


def test_several_in_a_row_end_the_run_and_keep_the_batch(tmp_path, monkeypatch, caplog):
    parts = trainer_world.parts()
    bad_gradients(parts, monkeypatch, at={1, 2, 3})
    with pytest.raises(SdarError) as raised, caplog.at_level(logging.WARNING):
        trainer_world.run(tmp_path, given=parts, skipped_in_a_row=3, **ONE)
    said = str(raised.value)
    assert "the gradient is not finite" in said
    assert "3 in a row" in said
    assert "training.skipped_in_a_row" in said
    assert len(said) < 1000
    assert "\n" not in said
    folder = tmp_path / "runs" / "world" / "sdar" / "seed-0"
    path = folder / "skipped" / "step-00003-minibatch-0.parquet"
    assert str(path) in said
    frame = pl.read_parquet(path)
    assert {"task_id", "action", "prompt_ids", "response_ids", "an advantage"} <= set(frame.columns)
    assert frame.height > 6
    assert skipped(folder) == [0, 1, 1], "the step that ended it is not done"
    assert_finite(folder)
    # The row is in the checkpoint: the same command finds the same end.
    monkeypatch.undo()
    parts = trainer_world.parts()
    bad_gradients(parts, monkeypatch, at={0})
    with pytest.raises(SdarError, match="3 in a row"):
        trainer_world.run(tmp_path, given=parts, skipped_in_a_row=3, **ONE)
    # Mended, it goes on from there.
    monkeypatch.undo()
    trainer_world.run(tmp_path, skipped_in_a_row=3, **ONE)
    assert skipped(folder) == [0, 1, 1, 0, 0]


def test_single_skips_far_apart_are_not_in_a_row(tmp_path, monkeypatch):
    parts = trainer_world.parts()
    bad_gradients(parts, monkeypatch, at={0, 1, 3, 4})
    folder = trainer_world.run(tmp_path, given=parts, skipped_in_a_row=3, **ONE)
    assert skipped(folder) == [1, 1, 0, 1, 1]


def bad_values(monkeypatch, where, value):
    """What enters the update holds `value` at one token of step 1."""
    plain = trainer.training_step

    def step(learner, number, bar=None):
        if number != 1:
            return plain(learner, number, bar)

        def spoil(result):
            result = result[0] if isinstance(result, tuple) else result
            result[2, 0] = value

        with pytest.MonkeyPatch.context() as patch:
            method = getattr(learner, where)

            def spoiled(*given, **options):
                result = method(*given, **options)
                spoil(result)
                return result

            patch.setattr(type(learner), where, lambda self, *a, **k: spoiled(*a, **k))
            return plain(learner, number, bar)

    monkeypatch.setattr(trainer, "training_step", step)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["score_old", "score_teacher", "score_reference"])
@pytest.mark.parametrize("method", ["sdar", "sdar_adaptive"])
def test_a_bad_log_prob_costs_one_optimizer_step(method, where, value, tmp_path, monkeypatch):
    bad_values(monkeypatch, where, value)
    options = {"record_tokens_every": 1, **ONE}
    folder = trainer_world.run(tmp_path, method, steps=3, **options)
    assert skipped(folder) == [0, 1, 0]
    assert_finite(folder)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("minibatch", [64, 8])
def test_a_reward_that_is_no_number(minibatch, value, tmp_path, monkeypatch):
    plain = trainer.Learner.rollout

    def rollout(self, step, *given):
        episodes = plain(self, step, *given)
        if step == 0:
            episodes[0].episode_return = value
        return episodes

    monkeypatch.setattr(trainer.Learner, "rollout", rollout)
    folder = trainer_world.run(tmp_path, steps=3, **(ONE | {"minibatch": minibatch}))
    assert skipped(folder)[0] >= 1
    assert skipped(folder)[1:] == [0, 0]
    assert records(folder)[0]["train/return"] is None
    assert_finite(folder)


@pytest.mark.parametrize("rate", [1e9, 1e30, 1e37, 1e39, 1e300])
def test_a_learning_rate_beyond_all_sense_ends_in_a_sentence(rate, tmp_path):
    with pytest.raises(SdarError) as raised:
        trainer_world.run(tmp_path, learning_rate=rate, steps=40, **ONE)
    assert "learning rate" in str(raised.value) or "learning_rate" in str(raised.value)
    folder = tmp_path / "runs" / "world" / "sdar" / "seed-0"
    if (folder / "checkpoints").exists():
        assert_finite(folder)
    if (folder / "metrics.jsonl").exists():
        records(folder)
    # Corrected, the same command trains.
    trainer_world.run(tmp_path, steps=2, **ONE)
    assert skipped(folder) == [0, 0]
    assert_finite(folder)


def test_a_checkpoint_that_is_not_finite_is_passed_over(tmp_path, monkeypatch, caplog):
    """As an earlier version could write one, with a manifest that fits."""
    folder = trainer_world.run(tmp_path, **ONE)
    expected = (folder / "metrics.jsonl").read_bytes()
    newest = folder / "checkpoints" / "step-00005"
    weights = load_file(newest / "model.safetensors")
    next(iter(weights.values())).view(-1)[7] = math.nan
    save_file(weights, newest / "model.safetensors")
    (newest / "manifest.json").unlink()
    checkpoint._write_manifest(newest)
    with caplog.at_level(logging.WARNING, logger="sdar.training"):
        trainer_world.run(tmp_path, **ONE)
    assert "step-00005 is not usable (not finite: model.safetensors" in caplog.text
    assert (folder / "metrics.jsonl").read_bytes() == expected
    assert_finite(folder)
