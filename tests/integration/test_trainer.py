"""The training loop: what it leaves behind, what changes its result, and what must not."""

import json
import shutil

import polars as pl
import pytest
import trainer_world
from safetensors.torch import load_file

from sdar.errors import SdarError
from sdar.files import lines
from sdar.methods.declarations import METHODS
from sdar.policy.loading import load_policy


def metrics(folder):
    return lines.read(folder / "metrics.jsonl")


def weights(folder):
    return load_file(folder / "policy" / "model.safetensors")


def distance(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return trainer_world.run(tmp_path_factory.mktemp("finished"))


def test_run_folder(finished):
    for name in ("config.yaml", "provenance.json", "episodes.parquet", "policy/model.safetensors"):
        assert (finished / name).is_file()
    steps = metrics(finished)
    assert [line["step"] for line in steps] == [0, 1, 2, 3, 4]
    assert all(0 <= line["train/success"] <= 1 for line in steps)
    assert all(0 < line["gate/mean"] < 1 for line in steps)
    assert max(line["policy/engine_difference"] for line in steps) < 1e-5
    # The teacher is another reader of the same tokens, so the gap is there from the first step.
    assert abs(steps[0]["gap/mean"]) > 1e-4
    timings = lines.read(finished / "timings.jsonl")
    phases = ("environment_s", "generation_s", "old_s", "teacher_s", "reference_s", "update_s")
    assert all(line[phase] >= 0 for line in timings for phase in phases)
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == [
        "step-00004",
        "step-00005",
    ]
    episodes = pl.read_parquet(finished / "episodes.parquet")
    assert episodes.height == 5 * 6
    success = episodes.group_by("step", maintain_order=True).agg(pl.col("success").mean())
    assert success["success"].to_list() == [line["train/success"] for line in steps]


def test_token_records_agree_with_the_formulas(finished):
    tokens = pl.read_parquet(finished / "tokens" / "step-00002.parquet")
    assert tokens["episode"].n_unique() == 2
    gap = tokens["teacher_log_prob"] - tokens["student_log_prob"]
    assert (gap - tokens["gap"]).abs().max() < 1e-5
    gate = 1 / (1 + (-5.0 * tokens["gap"]).exp())
    assert (gate - tokens["gate"]).abs().max() < 1e-5
    assert tokens["reference_log_prob"].null_count() == 0
    assert tokens["teacher_prompt"].str.contains("usually in the fridge").all()
    assert not tokens["student_prompt"].str.contains("usually in the fridge").any()
    first = tokens.filter((pl.col("turn") == 0) & (pl.col("episode") == tokens["episode"][0]))
    assert first["position"].to_list() == list(range(first.height))


def test_exported_policy_loads_and_differs_from_the_start(finished):
    model, _ = load_policy(finished / "policy")
    started = trainer_world.parts().model.state_dict()
    moved = distance({k: v for k, v in model.state_dict().items() if k in started}, started)
    assert moved > 1e-4


def test_micro_batches_and_pools_change_rounding_at_most(finished, tmp_path):
    cut = trainer_world.run_in_double(tmp_path / "cut", micro_batch=1, steps=2)
    whole = trainer_world.run_in_double(tmp_path / "whole", micro_batch=8, steps=2)
    assert distance(weights(cut), weights(whole)) < 1e-8
    for one, other in zip(metrics(cut), metrics(whole), strict=True):
        for name, value in one.items():
            # Padding is what micro-batches are about.
            if isinstance(value, float) and name != "update/padding_share":
                assert value == pytest.approx(other[name], abs=1e-9), name


def test_importance_weights_are_the_policy_terms_alone(tmp_path):
    # The engine is the policy itself, so below 1 the cap is the weight of every token.
    # Returns are centred on the mean of episodes, so that the policy term is not 0 at the start.
    one_update = {"steps": 1, "minibatch": 64, "statistics_over": "episodes"}

    def trained(cap):
        values = {"rollout": {"importance_cap": cap}}
        return metrics(trainer_world.run(tmp_path / str(cap), values=values, **one_update))[0]

    plain, halved = trained(None), trained(0.5)
    assert abs(plain["loss/policy"]) > 1e-3
    assert halved["loss/policy"] == pytest.approx(plain["loss/policy"] / 2, abs=1e-6)
    for name in ("loss/distillation", "policy/entropy", "gate/mean", "gap/mean"):
        assert halved[name] == plain[name], name
    assert 0 < plain["policy/engine_difference"] < plain["policy/engine_difference_max"] < 1e-4


def test_the_samplers_log_probs_stand_for_a_pass_of_their_own(tmp_path):
    auto, scored = (
        metrics(trainer_world.run(tmp_path / source, steps=1, old_log_probs=source))[0]
        for source in ("auto", "pass")
    )
    assert auto.keys() == scored.keys()
    for name, value in scored.items():
        assert auto[name] == pytest.approx(value, abs=1e-4), name
    # It is still watched whether the engine has the trainer's weights.
    assert 0 < auto["policy/engine_difference"] < auto["policy/engine_difference_max"] < 1e-4


def test_another_temperature_needs_a_pass(tmp_path):
    """Log-probs of sampling are those of temperature 1."""
    one_update = {"steps": 1, "minibatch": 64}
    colder = {"rollout": {"temperature": 0.5}}
    first = metrics(trainer_world.run(tmp_path, values=colder, **one_update))[0]
    assert first["policy/clip_share"] == 0
    assert abs(first["policy/approx_kl"]) < 1e-6


def test_engine_and_trainer_are_compared_at_one_temperature_only(tmp_path):
    """The engine's log-probs are at temperature 1, the trainer's at the rollout's."""
    values = {"rollout": {"temperature": 0.5}}
    first = metrics(trainer_world.run(tmp_path, values=values, steps=1))[0]
    assert first["policy/entropy"] > 0
    assert not any(name.startswith("policy/engine_difference") for name in first)


def test_equal_runs_have_equal_bytes_and_seeds_matter(finished, tmp_path):
    again = trainer_world.run(tmp_path / "again")
    assert (again / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    other = trainer_world.run(tmp_path / "other", seed=1, steps=1)
    assert metrics(other)[0] != metrics(finished)[0]


def test_a_run_goes_on_where_its_records_were_removed(finished, tmp_path):
    """DVC removes a stage's outputs before it runs it again: what a killed run has computed so far
    is its checkpoints alone."""
    folder = trainer_world.run(tmp_path, steps=4)
    for path in folder.iterdir():
        if path.name == "checkpoints":
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert trainer_world.run(tmp_path) == folder
    assert (folder / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    assert [line["step"] for line in lines.read(folder / "timings.jsonl")] == [0, 1, 2, 3, 4]
    assert pl.read_parquet(folder / "episodes.parquet").equals(
        pl.read_parquet(finished / "episodes.parquet")
    )
    kept = {path.name for path in (finished / "tokens").iterdir()}
    assert {path.name for path in (folder / "tokens").iterdir()} >= kept
    assert distance(weights(folder), weights(finished)) == 0
    assert len(json.loads((folder / "provenance.json").read_text())["earlier"]) == 1


def test_distillation_with_coefficient_0_trains_like_grpo(tmp_path):
    coefficient = {"coefficient": 0.0}
    sdar = trainer_world.run(tmp_path, "sdar", steps=2, distillation=coefficient)
    grpo = trainer_world.run(tmp_path, "grpo", steps=2)
    model = "policy/model.safetensors"
    assert (sdar / model).read_bytes() == (grpo / model).read_bytes()
    assert "gate/mean" not in metrics(grpo)[0]
    assert pl.read_parquet(grpo / "tokens" / "step-00000.parquet")["gate"].null_count() > 0


@pytest.mark.parametrize("method", sorted(name for name, m in METHODS.items() if m.trained))
def test_every_method_trains(method, tmp_path):
    folder = trainer_world.run(tmp_path, method, steps=2, checkpoint_every=2)
    lines = metrics(folder)
    assert len(lines) == 2
    assert all(line["update/gradient_norm"] is not None for line in lines)
    with_teacher = METHODS[method].needs_teacher
    assert all(("gap/mean" in line) == with_teacher for line in lines)
    skills = [name for name in lines[0] if name.startswith("student_skill/")]
    assert bool(skills) == METHODS[method].rollout_with_skill


def test_untrained_method_is_refused(tmp_path):
    with pytest.raises(SdarError, match="nothing to train"):
        trainer_world.run(tmp_path, "skill_prompt")


def test_without_kl_there_is_no_reference_pass(tmp_path):
    folder = trainer_world.run(tmp_path, "grpo", steps=1, kl_coefficient=0.0)
    assert "reference_s" not in lines.read(folder / "timings.jsonl")[0]
    assert "policy/reference_kl" not in metrics(folder)[0]


def test_next_tasks_are_prefetched(tmp_path):
    parts = trainer_world.parts()
    trainer_world.run(tmp_path, given=parts, steps=2)
    seen = pl.read_parquet(tmp_path / "runs/world/sdar/seed-0/episodes.parquet")
    second = seen.filter(pl.col("step") == 1)["task_id"].unique(maintain_order=True).to_list()
    assert parts.pool.prefetched == [second], "nothing comes after the last step"


def test_config_is_recorded_resolved(finished):
    text = (finished / "config.yaml").read_text()
    assert "clip_low: 0.2" in text
    assert json.loads((finished / "provenance.json").read_text())["method"] == "sdar"


class LongPool(trainer_world.MortalPool):
    """What the environment says to an action is as long as a book's page, in every second task."""

    def _see(self, slot, text, won):
        long = self.steps[slot] and int(self.tasks[slot].id[-1]) % 2
        return super()._see(slot, "word after word " * 900 if long else text, won)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["turns", "continuous"])
def test_prompts_that_are_too_long_are_counted_and_end_no_run(schedule, tmp_path):
    given = trainer_world.parts()
    given.pool = LongPool(None)
    values = {"rollout": {"schedule": schedule}}
    steps = metrics(trainer_world.run(tmp_path, given=given, values=values, steps=3))
    assert [line["step"] for line in steps] == [0, 1, 2]
    assert all(line["train/cut_prompts"] == line["teacher/cut_prompts"] for line in steps)
    assert any(line["train/cut_prompts"] for line in steps)
    assert all(line["train/cut_prompts"] < line["train/samples"] for line in steps)


def test_limits_that_no_prompt_fits_end_it_before_anything_is_computed(tmp_path):
    values = {"policy": {"max_prompt_tokens": 30, "max_response_tokens": 8}}
    with pytest.raises(SdarError, match=r"policy\.max_prompt_tokens: 30 tokens are too few"):
        trainer_world.run(tmp_path, values=values)
    assert not (tmp_path / "runs").exists()
