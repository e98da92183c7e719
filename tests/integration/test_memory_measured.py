"""The memory estimate against what torch really allocates: every phase of a step, on a CPU.

Storages are counted as operations make and drop them, so the numbers are those of tensors, the
same on every machine.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from measuring import LiveTensors
from transformers import AutoConfig, AutoModelForCausalLM

from sdar.config import ExperimentConfig, parse_config
from sdar.memory import estimate as estimating
from sdar.memory.estimate import MemoryEstimate, estimate
from sdar.methods.declarations import get_method
from sdar.policy.log_probs import PolicyScorer
from sdar.policy.micro_batches import pad_batch, prefill_tokens
from sdar.policy.recomputation import recompute_layers
from sdar.policy.shape import ModelShape, shape_of_config
from sdar.rollout.engines.buckets import capacity_bucket, row_bucket
from sdar.rollout.engines.transformers import TransformersEngine
from sdar.training.optimizer import make_optimizer
from sdar.training.reference import frozen_copy

SAMPLES, PROMPT, RESPONSE = 3, 72, 24
TOLERANCE = 0.15
CHUNK = 16 * 4096
"""Logits of a chunk: 16 response tokens, so that the head works in several."""
CONFIGS = {
    "qwen2": {"model_type": "qwen2", "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {
        "model_type": "qwen3",
        "num_key_value_heads": 4,
        "head_dim": 24,
        "tie_word_embeddings": False,
    },
}
MODES = [("qwen2", "float32"), ("qwen2", "bfloat16"), ("qwen3", "float32"), ("qwen3", "bfloat16")]


def hugging_face_config(family: str) -> dict[str, Any]:
    return {
        "vocab_size": 4096,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        **CONFIGS[family],
    }


def shape(family: str) -> ModelShape:
    known = shape_of_config(hugging_face_config(family))
    assert known is not None
    return known


def model(family: str) -> Any:
    torch.manual_seed(0)
    values = AutoConfig.for_model(**hugging_face_config(family))
    return AutoModelForCausalLM.from_config(values, attn_implementation="sdpa").float().eval()


def configuration(dtype: str, **training: Any) -> ExperimentConfig:
    return parse_config(
        {
            "policy": {
                "dtype": dtype,
                "max_prompt_tokens": PROMPT,
                "max_teacher_prompt_tokens": PROMPT,
                "max_response_tokens": RESPONSE,
            },
            "rollout": {"batch": SAMPLES},
            "training": {"micro_batch": SAMPLES, **training},
        }
    )


def expected(family: str, config: ExperimentConfig, method: str = "grpo") -> MemoryEstimate:
    return estimate(shape(family), config, get_method(method))


def phase_bytes(estimate: MemoryEstimate, name: str) -> int:
    """Of a phase, without what is no tensor."""
    phase = next(phase for phase in estimate.phases if phase.name == name)
    return phase.total - phase.parts["CUDA"]


def peak(action: Callable[[], object], *held: Any) -> int:
    """Most bytes of tensors alive at once while `action` runs, those of `held` included."""
    with LiveTensors(*held) as live:
        action()
    return live.peak


def batch() -> Any:
    return pad_batch([[1] * PROMPT] * SAMPLES, [[2] * RESPONSE] * SAMPLES)


def autocast(dtype: str) -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")


@pytest.fixture(autouse=True)
def _as_on_this_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimating, "CHUNK_LOGITS", CHUNK)
    # The estimate is a GPU's, whose attention keeps all scores of float32 with grouped queries (by
    # formula, tests/unit/memory); a CPU's never does.
    monkeypatch.setattr(estimating._Job, "attention_scores", lambda *_: 0)


def trained(policy: Any, dtype: str) -> tuple[Any, Callable[[], None]]:
    """The optimizer after a step, and a micro-batch's forward and backward pass."""
    scorer = PolicyScorer(policy, chunk_logits=CHUNK)
    optimizer = make_optimizer(policy, 1e-4, 0.01)
    for group in optimizer.param_groups:
        group["foreach"] = True  # as it is by default on a GPU

    def forward_backward() -> None:
        with autocast(dtype):
            scores = scorer(batch(), entropy=True)
        (scores.log_probs.sum() + scores.entropy.sum()).backward()

    forward_backward()
    optimizer.step()
    return optimizer, forward_backward


@pytest.mark.parametrize(("family", "dtype"), MODES)
def test_update_and_optimizer_step(family: str, dtype: str) -> None:
    policy = model(family)
    reference = frozen_copy(policy, torch.bfloat16 if dtype == "bfloat16" else None)
    optimizer, forward_backward = trained(policy, dtype)
    estimate = expected(family, configuration(dtype))
    # The gradients of the micro-batch before are there.
    measured = peak(forward_backward, policy, optimizer, reference)
    assert phase_bytes(estimate, "update") == pytest.approx(measured, rel=TOLERANCE)
    measured = peak(optimizer.step, policy, optimizer, reference)
    assert phase_bytes(estimate, "optimizer step") == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize(("family", "dtype"), MODES)
def test_scoring(family: str, dtype: str) -> None:
    policy = model(family)
    scorer = PolicyScorer(policy, chunk_logits=CHUNK)

    def score() -> None:
        with torch.no_grad(), autocast(dtype):
            scorer(batch(), entropy=True)

    needed = phase_bytes(expected(family, configuration(dtype, kl_coefficient=0.0)), "scoring")
    without_moments = needed - 8 * shape(family).parameters
    assert without_moments == pytest.approx(peak(score, policy), rel=TOLERANCE)


@pytest.mark.parametrize(("family", "dtype"), MODES)
def test_activations_kept_by_a_layer_to_the_byte(family: str, dtype: str) -> None:
    """Nine layers against eight; a layer's converted weights belong to the copies."""
    from sdar.memory.activations import as_precision, kept_by_layer

    kept = []
    for layers in (8, 9):
        values = AutoConfig.for_model(
            **{**hugging_face_config(family), "num_hidden_layers": layers}
        )
        policy = AutoModelForCausalLM.from_config(values, attn_implementation="sdpa").eval()
        kept.append(saved_bytes(PolicyScorer(policy), dtype))
    one = shape(family)
    precision = as_precision(dtype, sharded=False)
    copies = precision.compute * one.layer_matrices if precision.casts else 0
    tokens = SAMPLES * (PROMPT + RESPONSE - 1)
    assert kept[1] - kept[0] - copies == tokens * kept_by_layer(one, precision)


def saved_bytes(scorer: PolicyScorer, dtype: str) -> int:
    """Of all storages but parameters that autograd keeps for the backward pass."""
    seen = {parameter.untyped_storage().data_ptr() for parameter in scorer.parameters()}
    kept: list[torch.Tensor] = []

    def pack(value: torch.Tensor) -> torch.Tensor:
        if value.untyped_storage().data_ptr() not in seen:
            seen.add(value.untyped_storage().data_ptr())
            kept.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value), autocast(dtype):
        scorer(batch(), entropy=True)
    return sum(value.untyped_storage().nbytes() for value in kept)


@pytest.mark.parametrize(("family", "dtype"), MODES)
def test_cache_of_the_rollout_to_the_byte(family: str, dtype: str) -> None:
    from sdar.memory.activations import as_precision, cache_of_token

    class Observed(TransformersEngine):
        def _prefill(self, prompt_ids: list[list[int]], cache: Any, first: int = 0) -> Any:
            hidden = super()._prefill(prompt_ids, cache, first)
            self.cached = sum(value.nbytes for pair in cache.buffers for value in pair)
            return hidden

    engine = Observed(model(family), None, ends=frozenset())
    prompts = [[index + 1] * PROMPT for index in range(SAMPLES)]
    keys = [(0, 0, index, 0) for index in range(SAMPLES)]
    with autocast(dtype):
        made = engine.generate(prompts, keys, max_new_tokens=RESPONSE, temperature=1.0)
    assert [len(each.token_ids) for each in made] == [RESPONSE] * SAMPLES
    tokens = SAMPLES * (PROMPT + RESPONSE)
    each = cache_of_token(shape(family), as_precision(dtype, sharded=False))
    assert engine.cached == tokens * each
    static = Observed(model(family), None, ends=frozenset(), path="static")
    with autocast(dtype):
        static.generate(prompts, keys, max_new_tokens=RESPONSE, temperature=1.0)
    assert static.cached == row_bucket(SAMPLES) * capacity_bucket(PROMPT + RESPONSE) * each
    assert engine.prefill_tokens == prefill_tokens("cpu")


@pytest.mark.parametrize("path", ["fast", "static"])
@pytest.mark.parametrize(("family", "dtype"), MODES)
def test_rollout(family: str, dtype: str, path: Any) -> None:
    """Prompts are read and tokens drawn, but not everything at once that is counted."""
    policy = model(family)
    engine = TransformersEngine(policy, None, ends=frozenset(), path=path)
    prompts = [[index + 1] * PROMPT for index in range(SAMPLES)]
    keys = [(0, 0, index, 0) for index in range(SAMPLES)]

    def sample() -> None:
        with autocast(dtype):
            engine.generate(prompts, keys, max_new_tokens=RESPONSE, temperature=1.0)

    config = configuration(dtype, kl_coefficient=0.0)
    rollout = config.rollout.model_copy(update={"static_decode": path == "static"})
    config = config.model_copy(update={"rollout": rollout})
    needed = phase_bytes(expected(family, config), "rollout") - 8 * shape(family).parameters
    measured = peak(sample, policy)
    assert 0.98 * measured < needed < 1.2 * measured


def test_checkpointing() -> None:
    """Layers that compute again keep their input alone."""
    policy = model("qwen2")
    recompute_layers(policy)
    optimizer, forward_backward = trained(policy, "float32")
    config = configuration("float32", kl_coefficient=0.0, activation_checkpointing=True)
    needed = phase_bytes(expected("qwen2", config), "update")
    measured = peak(forward_backward, policy, optimizer)
    assert needed == pytest.approx(measured, rel=TOLERANCE)
    without = configuration("float32", kl_coefficient=0.0)
    assert phase_bytes(expected("qwen2", without), "update") > 1.3 * needed


@pytest.fixture(scope="module")
def peaks_of_a_rank(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    """By family and phase; one start of two processes measures all."""
    script = Path(__file__).with_name("memory_of_ranks.py")
    output = tmp_path_factory.mktemp("ranks") / "peaks.json"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launcher, "--nproc-per-node", "2", str(script), str(output), *CONFIGS],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(output.read_text()))


@pytest.mark.parametrize("family", CONFIGS)
def test_a_rank_with_sharded_weights(
    family: str, peaks_of_a_rank: dict[str, dict[str, int]]
) -> None:
    """FSDP2 over two processes: its own part, and what it gathers."""
    config = configuration("bfloat16", activation_checkpointing=True)
    execution = config.execution.model_copy(update={"processes": 2})
    estimate = expected(family, config.model_copy(update={"execution": execution}))
    for name, measured in peaks_of_a_rank[family].items():
        assert phase_bytes(estimate, name) == pytest.approx(measured, rel=TOLERANCE), name
    assert peaks_of_a_rank[family].keys() == {"update", "scoring"}


def test_live_tensors_are_counted_once_and_until_they_go() -> None:
    held = torch.nn.Linear(4, 4, bias=False)
    with LiveTensors(held) as live:
        assert live.bytes == 64
        made = torch.zeros(8)
        view = made.view(2, 4)
        assert live.bytes == 96
        del made
        product = held(view)
        assert live.bytes == live.peak == 128
        del view, product
        # Without a graph that keeps it, nothing is left of either.
        assert live.bytes == 64
    assert live.peak == 128


@pytest.mark.parametrize("layers", [3, 8])
@pytest.mark.parametrize("common", [0.12, 0.6])
@pytest.mark.parametrize("learning", [True, False])
def test_common_beginnings_take_no_more_memory_than_without(layers, common, learning):
    values = {**hugging_face_config("qwen2"), "num_hidden_layers": layers}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values)).eval()
    shared = round(common * 90)
    prompts = [
        [*range(shared), *range(100 + 90 * row, 190 + 90 * row - shared)] for row in range(16)
    ]
    responses = [[5, 6, 7, 8]] * 16
    peaks = []
    for share in (False, True):
        batch = pad_batch(prompts, responses, share=share)
        assert (batch.tree is not None) is share
        model.zero_grad()
        with LiveTensors(model) as live, torch.set_grad_enabled(learning):
            log_probs = PolicyScorer(model)(batch, entropy=learning).log_probs
            if learning:
                log_probs.sum().backward()
        peaks.append(live.peak)
        del log_probs
    assert peaks[1] <= peaks[0]
    assert common < 0.5 or peaks[1] < 0.75 * peaks[0]
