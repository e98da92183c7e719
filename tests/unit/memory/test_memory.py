"""The memory estimate and its verdict: what makes it larger or smaller, and what it advises."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdar.cli.doctor import examine
from sdar.config import ExperimentConfig, Layout, load_config, parse_config
from sdar.config.generate import resolved_yaml
from sdar.errors import SdarError
from sdar.memory import verdict as judging
from sdar.memory import warm_start as warm_start_memory
from sdar.memory.disk import checkpoint_disk
from sdar.memory.estimate import GIB, MemoryEstimate, estimate
from sdar.memory.verdict import judge, judge_experiment, require_memory
from sdar.memory.warm_start import (
    estimate_warm_start,
    judge_warm_start,
    require_memory_of_warm_start,
)
from sdar.methods.declarations import get_method
from sdar.policy.shape import shape_of_policy

EXPERIMENTS = sorted((Path(__file__).parents[3] / "config" / "experiments").glob("*-qwen*.yaml"))
SEVEN = 7_615_616_512
"""Parameters of Qwen2.5-7B."""


def config(**sections: dict[str, Any]) -> ExperimentConfig:
    """A 7 B policy on GPUs."""
    values: dict[str, Any] = {
        "policy": {
            "model": "Qwen/Qwen2.5-7B-Instruct",
            "context": 32768,
            "dtype": "bfloat16",
            "max_prompt_tokens": 2048,
            "max_teacher_prompt_tokens": 4096,
            "max_response_tokens": 512,
        },
        "warm_start": {"enabled": False},
        "rollout": {"batch": 32},
        "training": {"micro_batch": 4},
        "execution": {"device": "cuda"},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return parse_config(values)


def estimated(experiment: ExperimentConfig, method: str = "sdar", **more: Any) -> MemoryEstimate:
    shape = shape_of_policy(experiment)
    assert shape is not None
    return estimate(shape, experiment, get_method(method), **more)


def parts(job: MemoryEstimate, phase: str) -> dict[str, int]:
    return next(each.parts for each in job.phases if each.name == phase)


def test_full_training_holds_sixteen_bytes_per_parameter_and_the_reference() -> None:
    update = parts(estimated(config()), "update")
    assert update["weights"] == update["gradients"] == 4 * SEVEN
    # Its matrices in bfloat16, its embedding in float32.
    assert 2 * SEVEN < update["reference"] < 2.2 * SEVEN
    assert update["moments"] == 8 * SEVEN


def test_ranks_share_weights_gradients_moments_and_reference() -> None:
    one = estimated(config())
    eight = estimated(config(execution={"processes": 8}))
    for name in ("weights", "moments", "gradients"):
        assert parts(eight, "update")[name] == -(-parts(one, "update")[name] // 8)
    assert parts(eight, "update")["reference"] == -(-4 * SEVEN // 8)
    # Each rank plays an eighth of the 64 episodes.
    caches = [parts(each, "rollout")["cache"] for each in (one, eight)]
    assert caches[1] == pytest.approx(caches[0] / 4)
    # The engine is a whole copy in bfloat16.
    assert parts(eight, "rollout")["engine"] == 2 * SEVEN
    assert "engine" not in parts(one, "rollout")


@pytest.mark.parametrize(
    ("training", "phase", "part"),
    [
        ({"kl_coefficient": 0.0}, "rollout", "reference"),
        ({"kl_coefficient": 0.0}, "scoring", "reference"),
        ({"reference": "host"}, "update", "reference"),
        ({"lora": {}}, "update", "reference"),
    ],
)
def test_no_reference_on_the_device(training: dict[str, Any], phase: str, part: str) -> None:
    assert parts(estimated(config(training=training)), phase).get(part, 0) == 0


def test_a_reference_on_the_host_comes_for_its_pass() -> None:
    host = estimated(config(training={"reference": "host"}))
    assert parts(host, "scoring")["reference"] > 0
    assert parts(host, "rollout")["reference"] == 0


def test_adapters_alone_have_gradients_and_moments() -> None:
    update = parts(estimated(config(training={"lora": {"rank": 16}})), "update")
    adapters = update["gradients"] // 4
    assert 0 < adapters < SEVEN / 100
    assert update["moments"] == 8 * adapters
    assert update["weights"] == 4 * (SEVEN + adapters)


def test_activation_checkpointing_and_smaller_micro_batches_shrink_the_update_alone() -> None:
    before = estimated(config())
    for training in ({"activation_checkpointing": True}, {"micro_batch": 2}):
        after = estimated(config(training=training))
        assert parts(after, "update")["activations"] < 0.6 * parts(before, "update")["activations"]
        assert parts(after, "rollout") == parts(before, "rollout")


def test_the_teacher_reads_longer_prompts() -> None:
    scoring = [
        parts(estimated(config(), method), "scoring")["activations"] for method in ("grpo", "sdar")
    ]
    assert scoring[1] / scoring[0] == pytest.approx((4096 + 511) / (2048 + 511))


def test_a_whole_distribution_needs_a_copy_of_the_head() -> None:
    experiment = config()
    assert parts(estimated(experiment, "reverse_kl_full"), "update")["teacher's head"] == (
        2 * 152064 * 3584
    )
    assert parts(estimated(experiment, "sdar"), "update")["teacher's head"] == 0


def test_vllm_takes_its_share_while_it_is_awake() -> None:
    vllm = {"engine": "vllm", "vllm": {"gpu_memory_share": 0.3}}
    job = estimated(config(rollout=vllm), gpu_bytes=80 * GIB)
    assert parts(job, "rollout")["engine"] == 24 * GIB
    assert parts(job, "update").get("engine", 0) == 0
    awake = {"engine": "vllm", "vllm": {"gpu_memory_share": 0.3, "sleep": False}}
    assert parts(estimated(config(rollout=awake), gpu_bytes=80 * GIB), "update")["engine"] == (
        24 * GIB
    )
    elsewhere = {"engine": "vllm", "vllm": {"servers": ["http://gpu2:8000"]}}
    assert parts(estimated(config(rollout=elsewhere)), "rollout")["engine"] == 0
    scoring = {"distillation": {"scored_by": "engine"}}
    job = estimated(config(rollout=vllm, training=scoring), gpu_bytes=80 * GIB)
    assert parts(job, "scoring")["engine"] == 24 * GIB


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_the_papers_experiments_fit_what_they_ask_for(file: Path) -> None:
    experiment = load_config(file)
    assert experiment.execution.gpu_memory_gib == 79  # an 80 GB card
    verdict = judge_experiment(experiment)
    assert verdict is not None
    assert verdict.level == "fits", verdict.sentence()
    if file.stem.endswith("qwen2.5-7b"):
        assert (experiment.execution.nodes, experiment.execution.processes) == (1, 8)


def machine(monkeypatch: pytest.MonkeyPatch, gib: float | None, on_gpu: bool = True) -> None:
    """As if there were GPUs of that much memory."""
    capacity = None if gib is None else int(gib * GIB)
    for module in (judging, warm_start_memory):
        monkeypatch.setattr(module, "machine", lambda experiment: (on_gpu, capacity))


def test_what_cannot_fit_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from sdar.training import trainer

    machine(monkeypatch, 79)
    monkeypatch.setattr(trainer, "make_accelerator", lambda _: SimpleNamespace())
    monkeypatch.setattr(trainer, "open_parts", lambda *_: pytest.fail("it loaded the policy"))
    with pytest.raises(SdarError) as refused:
        trainer.train(config(), Layout(tmp_path, "e"), "sdar", 0)
    said = str(refused.value)
    assert "sdar with 7.62 B parameters needs up to" in said
    assert "of each GPU's memory (update), which has 79.0 GiB: set execution.processes to" in said
    assert not list(tmp_path.iterdir())


def test_following_the_advice_makes_it_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = config(training={"micro_batch": 32}, rollout={"batch": 128})
    shape, method = shape_of_policy(experiment), get_method("sdar")
    assert shape is not None
    verdict = judge(shape, experiment, [method], on_gpu=True, capacity=79 * GIB)
    assert verdict.level == "too large"
    keys = [change.key for change in verdict.changes]
    assert keys[0] == "execution.processes"  # 20 bytes a parameter are too many for one
    assert len(set(keys)) == len(keys)
    for change, before in zip(verdict.changes[1:], verdict.changes, strict=False):
        assert change.peak < before.peak
    advised = verdict.changes[-1].config
    again = judge(shape, advised, [method], on_gpu=True, capacity=79 * GIB)
    assert again.level == "fits"
    assert again.estimate.peak == verdict.changes[-1].peak


def test_the_cheapest_key_that_suffices_comes_first() -> None:
    experiment = config(execution={"processes": 8}, training={"micro_batch": 32})
    shape = shape_of_policy(experiment)
    assert shape is not None
    verdict = judge(shape, experiment, [get_method("grpo")], on_gpu=True, capacity=200 * GIB)
    assert [change.key for change in verdict.changes] == ["training.micro_batch"]
    assert verdict.changes[0].value == 8  # 16 would be too many, 4 and checkpointing cost more
    assert "set training.micro_batch to 8 (" in verdict.sentence()


def test_nothing_helps_a_small_gpu() -> None:
    experiment = config()
    shape = shape_of_policy(experiment)
    assert shape is not None
    verdict = judge(shape, experiment, [get_method("grpo")], on_gpu=True, capacity=2 * GIB)
    assert not verdict.changes
    assert verdict.sentence().endswith("take a smaller model, or larger GPUs")


def test_a_small_margin_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = config(execution={"processes": 8})
    peak = estimated(experiment).peak
    machine(monkeypatch, peak / 0.95 / GIB)
    require_memory(experiment, get_method("sdar"))
    assert "set " in caplog.text
    caplog.clear()
    machine(monkeypatch, peak / 0.8 / GIB)
    require_memory(experiment, get_method("sdar"))
    assert not caplog.text


def test_a_cpu_and_an_unknown_shape_are_never_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 1, on_gpu=False)
    require_memory(config(), get_method("sdar"))
    machine(monkeypatch, 1)
    unknown = config(policy={"model": "nobody/never-published"})
    require_memory(unknown, get_method("sdar"))
    assert judge_experiment(unknown) is None


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "experiment.yaml"
    file.write_text(text)
    return file


EXPERIMENT = """
policy: {model: Qwen/Qwen2.5-7B-Instruct, context: 32768, dtype: bfloat16}
warm_start: {enabled: false}
methods: [sdar]
"""


def finding(file: Path, tmp_path: Path, subject: str = "training memory") -> Any:
    return next(each for each in examine(file, tmp_path) if each.subject == subject)


def test_doctor_without_a_gpu_compares_with_the_key(tmp_path: Path) -> None:
    file = write(tmp_path, EXPERIMENT + "execution: {device: cuda, gpu_memory_gib: 79}")
    check = finding(file, tmp_path)
    assert check.level == "wrong"
    assert check.state.startswith("sdar with 7.62 B parameters needs up to ")
    assert check.remedy.startswith("set execution.processes to ")
    lines = check.state.splitlines()
    assert lines[1].split() == ["GiB", "rollout", "scoring", "update", "optimizer", "step"]
    together = next(line for line in lines if line.startswith("together"))
    assert max(map(float, together.split()[1:])) > 79


def test_doctor_without_a_gpu_or_the_key_says_which_key_to_set(tmp_path: Path) -> None:
    check = finding(write(tmp_path, EXPERIMENT + "execution: {device: cuda}"), tmp_path)
    assert check.level == "note"
    assert check.remedy.startswith("set execution.gpu_memory_gib")


def test_doctor_counts_the_tiny_policys_parameters_in_millions(tmp_path: Path) -> None:
    check = finding(write(tmp_path, "execution: {device: cpu}"), tmp_path)
    assert "with 0.5 M parameters needs up to " in check.state


def test_doctor_shows_what_the_warm_start_needs(tmp_path: Path) -> None:
    text = EXPERIMENT.replace("false", "true") + "execution: {device: cuda, gpu_memory_gib: 79}"
    check = finding(write(tmp_path, text), tmp_path, "warm-start memory")
    assert check.level == "wrong"
    assert check.remedy.startswith("lower warm_start.micro_batch (now 16)")
    lines = check.state.splitlines()
    assert lines[0].startswith("the warm start with 7.62 B parameters needs up to ")
    assert lines[1].split() == ["GiB", "update", "optimizer", "step"]
    on_cpu = write(tmp_path, EXPERIMENT.replace("false", "true") + "execution: {device: cpu}")
    check = finding(on_cpu, tmp_path, "warm-start memory")
    assert (check.level, check.remedy) == ("note", "")


def test_doctor_on_a_cpu_only_notes(tmp_path: Path) -> None:
    check = finding(write(tmp_path, EXPERIMENT + "execution: {device: cpu}"), tmp_path)
    assert check.level == "note"
    assert check.remedy == ""
    tiny = finding(write(tmp_path, "execution: {device: cpu}"), tmp_path)
    assert tiny.level == "good"
    assert "MiB of each process's memory" in tiny.state


def test_float32_with_grouped_queries_keeps_all_scores_on_a_gpu_and_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    exact, fast = config(policy={"dtype": "float32"}), config()
    on_gpu = parts(estimated(exact, "grpo"), "update")["activations"]
    quick = parts(estimated(fast, "grpo"), "update")["activations"]
    on_cpu = parts(estimated(exact, "grpo", on_gpu=False), "update")["activations"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdar.memory.estimate._Job.attention_scores", lambda *_: 0)
        without = parts(estimated(exact, "grpo"), "update")["activations"]
        assert parts(estimated(fast, "grpo"), "update")["activations"] == quick
        assert parts(estimated(exact, "grpo", on_gpu=False), "update")["activations"] == on_cpu
    width = 2048 + 512
    # 28 layers of 28 heads; 4 samples of width - 1 tokens each.
    assert on_gpu - without == 28 * 4 * 28 * 4 * (width - 1) * width > 50 * GIB

    slow = judging.slow_precision(exact)
    assert slow is not None
    assert slow.startswith("policy.dtype is float32 on a GPU: no fused attention")
    assert slow.endswith("set policy.dtype to bfloat16")
    assert judging.slow_precision(fast) is None
    tiny = parse_config({"execution": {"device": "cuda"}})
    assert judging.slow_precision(tiny) is None, "the tiny policy is float32 everywhere"
    assert (
        judging.slow_precision(config(policy={"dtype": "float32"}, execution={"device": "cpu"}))
        is None
    )
    with pytest.raises(SdarError):
        require_memory(
            config(policy={"dtype": "float32"}, execution={"gpu_memory_gib": 79}),
            get_method("grpo"),
        )
    assert "policy.dtype is float32 on a GPU" in caplog.text


def test_checkpoints_take_twelve_bytes_a_trained_parameter() -> None:
    experiment = config(training={"steps": 150, "checkpoint_every": 5, "keep_checkpoints": 3})
    disk = checkpoint_disk(experiment)
    assert disk is not None
    assert (disk.checkpoint, disk.times) == (12 * SEVEN, 30)
    assert disk.written == 30 * 12 * SEVEN + 4 * SEVEN
    runs = 2 * 2
    assert disk.at_most == runs * (3 * 12 + 4) * SEVEN + 12 * SEVEN
    assert "a checkpoint has 91.4 GB; a run writes 30, 2772.1 GB" in disk.sentence()
    adapters = checkpoint_disk(config(training={"lora": {"rank": 8}}))
    assert adapters is not None
    assert adapters.checkpoint < disk.checkpoint / 100
    # Of the warm start: two checkpoints of what it trains, and its policy.
    for lora, most in ((None, 28 * SEVEN), ({"rank": 8}, 4.1 * SEVEN)):
        started = checkpoint_disk(
            config(
                training={"steps": 150, "checkpoint_every": 5, "keep_checkpoints": 3},
                warm_start={"enabled": True, "lora": lora},
            )
        )
        assert started is not None
        assert 4 * SEVEN < started.at_most - disk.at_most <= most


def test_a_disk_too_small_for_the_checkpoints_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(resolved_yaml(config(policy={"dtype": "float32"})))
    found = {finding.subject: finding for finding in examine(path, tmp_path)}
    assert found["checkpoints"].level == "note"
    assert "training.keep_checkpoints" in found["checkpoints"].remedy
    assert found["precision"].level == "note"


def warm(**keys: Any) -> ExperimentConfig:
    return config(warm_start={"enabled": True, **keys})


def test_a_warm_start_holds_no_reference_and_the_teacher_s_prompts() -> None:
    experiment = warm()
    shape = shape_of_policy(experiment)
    assert shape is not None
    job = estimate_warm_start(shape, experiment)
    assert [phase.name for phase in job.phases] == ["update", "optimizer step"]
    update = parts(job, "update")
    assert update["weights"] == update["gradients"] == 4 * SEVEN
    assert update["reference"] == 0
    # A micro-batch of hinted prompts, which only the teacher has in training.
    assert update["activations"] > 1.5 * parts(estimated(experiment), "update")["activations"]
    adapted = estimate_warm_start(shape, warm(lora={}))
    assert parts(adapted, "update")["moments"] < 0.02 * update["moments"]
    plays = estimate_warm_start(shape, warm(dagger={"rounds": 1}))
    assert "rollout" in {phase.name for phase in plays.phases}


def test_a_warm_start_plays_the_episodes_of_its_rounds_and_without_rounds_opens_no_engine() -> None:
    few = {"tasks_per_step": 1, "group_size": 2}
    rounds = {"rounds": 1, "episodes": 16}
    experiment = config(warm_start={"enabled": True, "dagger": rounds}, training=few)
    shape = shape_of_policy(experiment)
    assert shape is not None
    plays = estimate_warm_start(shape, experiment)
    alike = config(training={"tasks_per_step": 2, "group_size": 8})
    skilled = replace(get_method("grpo"), rollout_with_skill=True)
    sixteen = estimate(shape, alike, skilled)
    assert parts(plays, "rollout")["cache"] == parts(sixteen, "rollout")["cache"]
    awake = {"engine": "vllm", "vllm": {"sleep": False}}
    for number, engine in ((0, 0), (1, 0.4 * 80 * GIB)):
        settings = {"enabled": True, "dagger": {"rounds": number}}
        job = config(warm_start=settings, rollout=awake)
        found = estimate_warm_start(shape, job, gpu_bytes=80 * GIB)
        assert parts(found, "update").get("engine", 0) == int(engine)


@pytest.mark.parametrize(
    ("rollout", "remedy"),
    [
        ({"batch": 1024}, "lower rollout.batch (now 1024)"),
        (
            {"engine": "vllm", "vllm": {"gpu_memory_share": 0.9}},
            "lower rollout.vllm.gpu_memory_share (now 0.9)",
        ),
    ],
)
def test_where_its_rounds_do_not_fit_their_key_is_named(
    rollout: dict[str, Any], remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, 79)
    rounds = {"enabled": True, "lora": {}, "dagger": {"rounds": 1, "episodes": 1024}}
    small = {"micro_batch": 1, "activation_checkpointing": True}
    experiment = config(warm_start=rounds, rollout=rollout, training=small)
    with pytest.raises(SdarError, match=re.escape(f"(rollout), which has 79.0 GiB: {remedy}")) as e:
        require_memory_of_warm_start(experiment)
    assert "micro_batch" not in str(e.value)


def test_a_warm_start_that_cannot_fit_is_refused_with_its_own_keys(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine(monkeypatch, 79)
    for remedy in ("warm_start.micro_batch (now 4)", "warm_start.lora to {}"):
        with pytest.raises(SdarError, match=re.escape(remedy)):
            require_memory_of_warm_start(warm())
    machine(monkeypatch, 1000)
    require_memory_of_warm_start(config(warm_start={"enabled": True}, policy={"dtype": "float32"}))
    assert "policy.dtype is float32 on a GPU" in caplog.text
    require_memory_of_warm_start(warm())
    verdict = judge_warm_start(warm())
    assert verdict is not None
    machine(monkeypatch, verdict.estimate.peak / 0.95 / GIB)
    require_memory_of_warm_start(warm())
    assert "the warm start with 7.62 B parameters" in caplog.text
    machine(monkeypatch, 1)
    require_memory_of_warm_start(config())
    require_memory_of_warm_start(parse_config({}))
    machine(monkeypatch, 1, on_gpu=False)
    require_memory_of_warm_start(warm())
