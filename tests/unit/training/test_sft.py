"""Supervised fine-tuning: the loss, the order of samples, and going on where it stopped."""

import contextlib
import copy
import math
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import scripted
import torch
from double_precision import double_precision, in_double

from sdar.config import ExperimentConfig
from sdar.errors import SdarError
from sdar.policy.log_probs import PolicyScorer
from sdar.ranks.ranks import Ranks
from sdar.training import sft
from sdar.training.muon import MuonWithAdamW
from sdar.training.placed import PlacedPolicy, ThisProcess
from sdar.training.sft import (
    Sample,
    Schedule,
    add_gradients,
    batch_order,
    fine_tune,
    supervised_loss,
)
from sdar.training.skips import Skips

RANDOM = np.random.Generator(np.random.Philox(2))
SAMPLES = [
    Sample(tuple(RANDOM.integers(3, 360, size=p)), tuple(RANDOM.integers(3, 360, size=r)))
    for p, r in zip([9, 30, 4, 17, 1, 22, 6] * 3, [3, 1, 6, 2, 5, 4, 7] * 3, strict=True)
]


def naive_loss(model, samples):
    """Cross-entropy over response tokens, one sample at a time, from full logits."""
    total, count = torch.zeros(()), 0
    for sample in samples:
        ids = torch.tensor([[*sample.prompt_ids, *sample.response_ids]])
        labels = ids.clone()
        labels[0, : len(sample.prompt_ids)] = -100
        logits = model(input_ids=ids, use_cache=False).logits[0]
        total = total + torch.nn.functional.cross_entropy(
            logits[:-1], labels[0, 1:], ignore_index=-100, reduction="sum"
        )
        count += len(sample.response_ids)
    return total / count


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_loss_is_cross_entropy_on_response_tokens_alone():
    model = scripted.policy()
    expected, loss = naive_loss(model, SAMPLES), supervised_loss(PolicyScorer(model), SAMPLES)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    expected_gradients = gradients(model, expected)
    for name, gradient in gradients(model, loss).items():
        torch.testing.assert_close(
            gradient, expected_gradients[name], atol=2e-5, rtol=1e-4, msg=lambda m, n=name: n + m
        )


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 100])
def test_micro_batches_give_the_gradient_of_the_batch(micro_batch):
    with double_precision():
        model = in_double(scripted.policy())
        expected_loss = add_gradients(placed(model), SAMPLES)
        expected = {name: p.grad.clone() for name, p in model.named_parameters()}
        model.zero_grad()
        loss = add_gradients(placed(model), SAMPLES, micro_batch)
    assert loss == pytest.approx(expected_loss, abs=1e-12)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(("count", "batch"), [(100, 16), (7, 16), (600, 16), (33, 1)])
def test_every_epoch_visits_each_sample_once(count, batch):
    lengths = RANDOM.integers(1, 200, size=count)
    per_epoch = math.ceil(count / batch)
    order = list(batch_order(lengths, batch, 3 * per_epoch, seed=0))
    assert len(order) == 3 * per_epoch
    assert max(map(len, order)) <= batch
    epochs = [np.concatenate(order[e * per_epoch : (e + 1) * per_epoch]) for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(count))
    assert not np.array_equal(epochs[0], epochs[1]) or count < batch


def test_order_is_a_function_of_the_seed_and_a_longer_one_begins_the_same():
    lengths = RANDOM.integers(1, 200, size=70)
    first = list(batch_order(lengths, 8, 12, seed=5))
    again = list(batch_order(lengths, 8, 25, seed=5))
    other = list(batch_order(lengths, 8, 12, seed=6))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=False))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_batches_hold_samples_of_like_length():
    lengths = RANDOM.integers(1, 400, size=512)
    padded = sum(lengths[b].max() * len(b) for b in batch_order(lengths, 16, 32, seed=0))
    assert padded < 1.25 * lengths.sum(), "at random it would be 1.9 times"


def test_schedule_warms_up_and_comes_down_to_a_twentieth():
    schedule = Schedule(updates=200, warmup=20, scale=0.5)
    rates = [schedule.at(update) for update in range(200)]
    assert rates[:20] == pytest.approx([0.5 * (n + 1) / 20 for n in range(20)])
    assert rates[20] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(rates[20:]))
    assert rates[110] == pytest.approx(0.5 * (0.05 + 0.95 / 2))
    assert 0.5 * 0.05 < rates[-1] < 0.5 * 0.051
    short = Schedule(updates=10, warmup=20)
    assert [short.at(n) for n in range(10)] == pytest.approx([(n + 1) / 20 for n in range(10)])


def placed(model):
    config = ExperimentConfig()
    return PlacedPolicy(model, PolicyScorer(model), config, ThisProcess(), Ranks(), False)


def start():
    model = scripted.policy()
    return model, MuonWithAdamW(
        model, matrix_learning_rate=0.02, learning_rate=3e-3, weight_decay=0.01
    )


def tune(model, optimizer, updates=12, first=0, stop=None):
    """Losses by update; breaks off behind update `stop`."""

    class Stopped(Exception):
        pass

    losses = {}

    def note(update, loss):
        losses[update] = loss
        if update == stop:
            raise Stopped

    options = {"schedule": Schedule(updates, 3), "batch": 4, "seed": 1}
    with contextlib.suppress(Stopped):
        fine_tune(placed(model), optimizer, SAMPLES, **options, start=first, on_update=note)
    return losses


def test_a_continued_phase_is_the_same_phase():
    whole, optimizer = start()
    expected = tune(whole, optimizer)
    assert list(expected) == list(range(12))
    model, optimizer = start()
    losses = tune(model, optimizer, stop=6)
    resumed, resumed_optimizer = start()
    resumed.load_state_dict(copy.deepcopy(model.state_dict()))
    resumed_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    losses |= tune(resumed, resumed_optimizer, first=7)
    assert losses == expected
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_it_learns_what_it_is_shown():
    model, optimizer = start()
    losses = list(tune(model, optimizer, updates=60).values())
    assert np.mean(losses[-6:]) < 0.5 * np.mean(losses[:6])


def spoiled(monkeypatch, at):
    """The loss of these updates is NaN."""
    plain, count = sft.supervised_loss, 0

    def loss(*given):
        nonlocal count
        count += 1
        return plain(*given) * (math.nan if count - 1 in at else 1.0)

    monkeypatch.setattr(sft, "supervised_loss", loss)


def test_a_loss_that_is_no_number_costs_one_update(tmp_path, monkeypatch):
    skips = Skips(3, tmp_path)
    counts = []
    spoiled(monkeypatch, {2, 3, 5})
    model, optimizer = start()
    fine_tune(
        placed(model), optimizer, SAMPLES, schedule=Schedule(8, 3), batch=4, seed=1, skips=skips,
        on_update=lambda update, loss: counts.append(skips.report()),
    )  # fmt: skip
    assert counts == [0, 0, 1, 1, 0, 1, 0, 0]
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert not list(tmp_path.iterdir())


def test_too_many_in_a_row_end_it_and_the_batch_is_kept(tmp_path, monkeypatch):
    spoiled(monkeypatch, {1, 2, 3})
    model, optimizer = start()
    with pytest.raises(SdarError, match="update 00014: the loss is not finite") as raised:
        fine_tune(
            placed(model), optimizer, SAMPLES, schedule=Schedule(8, 3), batch=4, seed=1,
            first_update=10, skips=Skips(3, tmp_path),
        )  # fmt: skip
    path = tmp_path / "skipped" / "update-00014.parquet"
    assert str(path) in str(raised.value)
    assert pl.read_parquet(path).columns == ["prompt_ids", "response_ids"]
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


@pytest.mark.parametrize("rates", [(1e39, 3e-3), (0.02, 1e39), (1e300, 1e-3), (1e20, 1e20)])
def test_weights_that_overflow_end_it(rates):
    model = scripted.policy()
    optimizer = MuonWithAdamW(
        model, matrix_learning_rate=rates[0], learning_rate=rates[1], weight_decay=0.01
    )
    with pytest.raises(SdarError, match=r"weights are not finite|in a row"):
        tune(model, optimizer, updates=30)
