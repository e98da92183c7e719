"""Methods as training runs: what they equal at their limits, and what their records say."""

import polars as pl
import pytest
import torch
import trainer_world
from safetensors.torch import load_file

from sdar.files import lines
from sdar.training.learner import Learner

ADDED_TO_GRPO = ("sdar", "sdar_centred", "sdar_adaptive", "sdar_objective", "reverse_kl_full")


def exported(folder):
    return (folder / "policy" / "model.safetensors").read_bytes()


def metrics(folder):
    return lines.read(folder / "metrics.jsonl")


@pytest.fixture(scope="module", autouse=True)
def valid_actions():
    """A random policy writes no valid action, so validity is dealt out: every turn but each third,
    and each task's first episode wins."""
    play = Learner.rollout

    def played(learner, *given, **named):
        episodes = play(learner, *given, **named)
        for number, turn in enumerate(turn for episode in episodes for turn in episode.turns):
            turn.valid = number % 3 != 0
            turn.penalty = 0.0 if turn.valid else 0.1
        for episode in episodes:
            episode.won = episode.slot % 3 == 0
            episode.episode_return = 10.0 * episode.won
        return episodes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "rollout", played)
        yield


# A gate of the entropy takes the old log-probs from a pass, which rounds otherwise than sampling.
PASS = {"steps": 2, "old_log_probs": "pass"}


@pytest.fixture(scope="module")
def grpo(tmp_path_factory):
    return exported(trainer_world.run(tmp_path_factory.mktemp("grpo"), "grpo", **PASS))


@pytest.mark.parametrize("method", ADDED_TO_GRPO)
def test_coefficient_0_trains_bit_for_bit_like_grpo(method, grpo, tmp_path):
    off = trainer_world.run(tmp_path / "off", method, distillation={"coefficient": 0.0}, **PASS)
    assert exported(off) == grpo
    on = trainer_world.run(tmp_path / "on", method, steps=2)
    assert exported(on) != grpo, "with its coefficient the term does something"


@pytest.mark.parametrize(
    ("method", "distillation"),
    [
        ("sdar_centred", {"gate": "none"}),
        ("sdar_centred", {"beta": 0.0}),
        ("sdar_centred", {"beta": 0.0, "gate": "entropy"}),
        ("sdar_adaptive", {"beta": 0.0}),
    ],
)
def test_a_gate_that_tells_nothing_trains_bit_for_bit_like_grpo(
    method, distillation, grpo, tmp_path
):
    run = trainer_world.run(tmp_path, method, distillation=distillation, **PASS)
    assert exported(run) == grpo
    tokens = pl.read_parquet(run / "tokens" / "step-00000.parquet")
    assert tokens["gate"].to_list() == [0.0] * tokens.height


@pytest.mark.parametrize("gate", ["gap", "soft_or"])
def test_centred_records_the_weight_that_was_applied(gate, tmp_path):
    # One minibatch and every episode recorded: the weights are those of the step's start.
    folder = trainer_world.run(
        tmp_path,
        "sdar_centred",
        steps=1,
        minibatch=64,
        recorded_episodes=6,
        distillation={"gate": gate},
    )
    (line,) = metrics(folder)
    tokens = pl.read_parquet(folder / "tokens" / "step-00000.parquet")
    assert abs(tokens["gate"].mean()) < 1e-5
    assert tokens["gate"].min() < 0 < tokens["gate"].max()
    assert abs(line["gate/mean"]) < 1e-5
    if gate == "gap":
        expected = 1 / (1 + (-5.0 * tokens["gap"]).exp())
        assert line["gate/baseline"] == pytest.approx(expected.mean(), abs=1e-5)
        assert (tokens["gate"] - (expected - expected.mean())).abs().max() < 1e-5


def test_objective_records_no_weight_where_it_opposes(tmp_path):
    folder = trainer_world.run(
        tmp_path, "sdar_objective", steps=1, minibatch=64, recorded_episodes=6
    )
    (line,) = metrics(folder)
    tokens = pl.read_parquet(folder / "tokens" / "step-00000.parquet")
    opposed = (tokens["advantage"] < 0) | ~tokens["valid"]
    assert 0 < opposed.sum() < tokens.height
    assert (tokens["gate"].filter(opposed) == 0).all()
    assert (tokens["gate"].filter(~opposed) > 0).all()
    assert line["gate/kept_share"] == pytest.approx(1 - opposed.mean())


def test_full_reverse_kl_is_measured_and_its_time_is_the_teachers_and_the_updates(tmp_path):
    folder = trainer_world.run(tmp_path, "reverse_kl_full", steps=2, micro_batch=3)
    assert all(line["loss/reverse_kl"] > 0 for line in metrics(folder))
    assert all(line["loss/distillation"] > 0 for line in metrics(folder))
    for line in lines.read(folder / "timings.jsonl"):
        assert line["teacher_s"] > 0
        assert line["update_s"] > 0


def test_full_reverse_kl_follows_the_divergence_down(tmp_path):
    """Trained on nothing else, the student comes closer to the teacher it started with."""
    quiet = {"entropy_coefficient": 0.0, "kl_coefficient": 0.0, "learning_rate": 3e-3}
    near = trainer_world.run(
        tmp_path / "near", "reverse_kl_full", steps=3, distillation={"coefficient": 30.0}, **quiet
    )
    far = trainer_world.run(
        tmp_path / "far", "reverse_kl_full", steps=3, distillation={"coefficient": 0.0}, **quiet
    )
    assert metrics(near)[-1]["loss/reverse_kl"] < 0.9 * metrics(far)[-1]["loss/reverse_kl"]


def test_micro_batches_change_rounding_at_most(tmp_path):
    for method in ("sdar_centred", "sdar_adaptive", "sdar_objective", "reverse_kl_full"):
        cut, whole = (
            trainer_world.run_in_double(
                tmp_path / f"{method}-{size}", method, steps=2, micro_batch=size
            )
            for size in (1, 8)
        )
        one, other = (
            torch.cat([value.flatten() for value in load_file(path).values()])
            for path in (folder / "policy" / "model.safetensors" for folder in (cut, whole))
        )
        assert (one - other).abs().max() < 1e-8, method
