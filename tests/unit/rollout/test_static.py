"""Decoding in fixed shapes gives the tokens of the usual path, and never asks the device."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scripted
import torch
from decode_ops import random_model
from double_precision import double_precision, in_double
from fake_cuda import fake_cuda, on_cuda
from measuring import OperationCounts
from model_families import make_model
from torch._subclasses.fake_tensor import DataDependentOutputException
from transformers import AutoConfig, AutoModelForCausalLM

from sdar.config.execution import LoraConfig
from sdar.policy.log_probs import PolicyScorer, score_responses
from sdar.policy.lora import add_adapters
from sdar.policy.paths import set_fp32_head
from sdar.rollout.engines import computing
from sdar.rollout.engines.base import uniforms
from sdar.rollout.engines.buckets import capacity_bucket, row_bucket
from sdar.rollout.engines.computing import packed
from sdar.rollout.engines.copied import CopiedEngine
from sdar.rollout.engines.probe import find_sampling_path
from sdar.rollout.engines.static import LOOK, StaticRows
from sdar.rollout.engines.transformers import TransformersEngine, sample
from sdar.rollout.engines.transformers_continuous import ContinuousTransformersEngine
from sdar.training.playing import rest

PROMPTS = [scripted.tokenizer()(text)["input_ids"] for text in (*scripted.TEXTS, "You")] * 5
KEYS = [(3, 1, slot, 2) for slot in range(len(PROMPTS))]
ENDS = frozenset({5, 9, 60, 61, 62, 63, 64})


def both(model: Any, **options: Any) -> tuple[Any, Any]:
    return tuple(
        ContinuousTransformersEngine(model, None, **{"ends": ENDS, "path": path} | options)
        for path in ("fast", "static")
    )


def assert_same(found: Any, expected: Any, atol: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.token_ids == other.token_ids
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=atol)


@pytest.mark.parametrize("temperature", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("new_tokens", [1, 2, 9, 40])
def test_turns_are_those_of_the_usual_path(temperature: float, new_tokens: int) -> None:
    with double_precision():
        fast, static = both(in_double(scripted.policy()))
        options = {"max_new_tokens": new_tokens, "temperature": temperature}
        expected = fast.generate(PROMPTS, KEYS, **options)
        assert_same(static.generate(PROMPTS, KEYS, **options), expected, 1e-9)
        # Buffers are there by now, and hold what was.
        assert_same(static.generate(PROMPTS[:3], KEYS[:3], **options), expected[:3], 1e-9)
        longer = [[*PROMPTS[0] * 5, *prompt] for prompt in PROMPTS]
        assert_same(
            static.generate(longer, KEYS, **options), fast.generate(longer, KEYS, **options), 1e-9
        )
    if new_tokens == 40 and temperature == 1.0:
        lengths = {len(each.token_ids) for each in expected}
        assert len(lengths) > 5
        assert static._static.count == 0


@pytest.mark.parametrize("layers", [2, 8])
@pytest.mark.parametrize("half", [False, True])
def test_so_are_those_in_single_precision_and_in_bfloat16(layers: int, half: bool) -> None:
    fast, static = both(scripted.policy(layers=layers))
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        expected = fast.generate(PROMPTS, KEYS, max_new_tokens=20, temperature=1.0)
        found = static.generate(PROMPTS, KEYS, max_new_tokens=20, temperature=1.0)
    if not half:
        assert_same(found, expected, 1e-5)
        return
    # Attention over another width rounds otherwise, and a rounding may choose another token.
    same = [one for one, two in zip(found, expected, strict=True) if one.token_ids == two.token_ids]
    assert len(same) > 0.7 * len(found)
    mates = [
        two for one, two in zip(found, expected, strict=True) if one.token_ids == two.token_ids
    ]
    assert_same(same, mates, 0.1)


def answers(engine: Any, order: list[int], arriving: int, **options: Any) -> dict[int, Any]:
    """Responses that are asked for a few at a time."""
    found: dict[int, Any] = {}
    left = list(order)
    while len(found) < len(order):
        for name in left[:arriving]:
            engine.submit(name, PROMPTS[name], KEYS[name], **options)
        left = left[arriving:]
        found |= dict(engine.advance())
    assert engine.advance() == []
    return found


@pytest.mark.parametrize("arriving", [1, 4, 30])
def test_continuously_they_are_the_same_whenever_rows_join(arriving: int) -> None:
    with double_precision():
        fast, static = both(in_double(scripted.policy()))
        options = {"max_new_tokens": 21, "temperature": 1.0}
        expected = fast.generate(PROMPTS, KEYS, **options)
        for _ in range(2):
            found = answers(static, list(range(len(PROMPTS))), arriving, **options)
            assert_same([found[name] for name in range(len(PROMPTS))], expected, 1e-9)
    assert static._static.count == 0
    static.close()
    assert static._static is None


def test_what_continuous_calls_return_is_a_function_of_the_calls() -> None:
    """A response that joins an engine at rest ends with the step of its last token; one that is
    asked for meanwhile joins at the next look. A second engine says the same."""
    _, static = both(scripted.policy(), ends=frozenset())
    _, again = both(scripted.policy(), ends=frozenset())
    said = []
    for engine in (static, again):
        ended = {}
        engine.submit(0, PROMPTS[0], KEYS[0], max_new_tokens=11, temperature=1.0)
        for step in range(1, 40):
            if step == 3:
                engine.submit(1, PROMPTS[1], KEYS[1], max_new_tokens=2, temperature=1.0)
            if step == 4:  # with another temperature: when nobody else is there
                engine.submit(2, PROMPTS[2], KEYS[2], max_new_tokens=1, temperature=0.0)
            ended |= {name: (step, made) for name, made in engine.advance()}
        said.append(ended)
    assert said[0] == said[1]
    assert {name: step for name, (step, _) in said[0].items()} == {0: 11, 1: 10, 2: 12}


def test_weights_are_read_anew_and_may_move() -> None:
    for half in (False, True):
        model = scripted.policy()
        fast, static = both(model)
        options = {"max_new_tokens": 12, "temperature": 0.4}
        said = []
        for change in ("none", "optimizer", "moved"):
            if change == "optimizer":
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.add_(0.05 * torch.randn_like(parameter))
            if change == "moved":
                for parameter in model.parameters():
                    parameter.data = parameter.data.clone() * 0.9
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                expected = fast.generate(PROMPTS[:4], KEYS[:4], **options)
                said.append(static.generate(PROMPTS[:4], KEYS[:4], **options))
            if not half:
                assert_same(said[-1], expected, 1e-5)
        assert said[0] != said[1] != said[2]
        assert all(each.dtype == torch.float32 for each in model.parameters())
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert model.config._attn_implementation == "sdpa"


def test_a_head_in_float32_is_decoded_with_its_own_weights() -> None:
    """As it is scored. Rounded to bfloat16 they would part engine and scorer by some .001 nats."""
    model = scripted.policy()
    set_fp32_head(model, True)
    _, engine = both(model, ends=frozenset())
    with torch.autocast("cpu", torch.bfloat16):
        made = engine.generate(PROMPTS, KEYS, max_new_tokens=20, temperature=1.0)
        answers = [each.token_ids for each in made]
        scores = score_responses(PolicyScorer(model), PROMPTS, answers).log_probs
        with computing.ComputingWeights(model).in_use():
            assert model.lm_head.weight.dtype == torch.float32
            assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert (scores - torch.tensor([each.log_probs for each in made])).abs().mean() < 2e-4


def test_adapters_and_frozen_weights_are_converted_once() -> None:
    model = random_model(2)
    add_adapters(model, LoraConfig(rank=2), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    for path in ("fast", "static"):
        engine = ContinuousTransformersEngine(model, None, ends=frozenset(), path=path)
        counts = []
        for tokens in (9, 25):
            with torch.autocast("cpu", torch.bfloat16), OperationCounts(model) as count:
                engine.generate([[3, 4]], [(0, 0, 0, 0)], max_new_tokens=tokens, temperature=1.0)
            counts.append(count.weight_casts)
        assert counts[1] <= counts[0], "as many for 25 tokens as for 9"
    usual = ContinuousTransformersEngine(model, None, ends=frozenset(), path="fast")
    prompts, keys = [[3, 4, 5], [6]], [(0, 0, 0, 0), (0, 0, 1, 0)]
    with torch.autocast("cpu", torch.bfloat16):
        one = usual.generate(prompts, keys, max_new_tokens=9, temperature=0.0)
        usual._computing = lambda **_: torch.no_grad()  # type: ignore[method-assign]
        assert one == usual.generate(prompts, keys, max_new_tokens=9, temperature=0.0)


@pytest.mark.parametrize("half", [False, True])
def test_the_host_reads_nothing_between_two_looks(half: bool) -> None:
    model = random_model(2)
    engine = ContinuousTransformersEngine(model, None, ends=frozenset(), path="static")
    draws = uniforms([(0, 0, 0, 0), (0, 0, 1, 0)], 30)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=half)
    with torch.no_grad(), autocast, engine._computing():
        rows = engine._static_rows()
        rows.join([2, 3], list(draws), 1.0)
        rows.start(0, engine._prefill([[3, 4], [5, 6, 7]], rows.cache))
        with OperationCounts(model) as counts:
            rows.run(LOOK)
    assert counts.host_reads == 0
    assert counts.weight_casts == 0
    assert counts.operations > 20 * LOOK


def run_on_fake_cuda(family: str, half: bool, adapted: bool = False, **more: Any) -> None:
    """Two looks of a small model's decode, with tensors that have a device and no values."""
    config = AutoConfig.for_model(
        family,
        **{
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
        }
        | more,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
        if adapted:
            add_adapters(model, LoraConfig(rank=2), seed=0)
    with fake_cuda(half):
        on_cuda(model)

        def head(hidden: torch.Tensor) -> torch.Tensor:
            return model.lm_head(hidden).float()

        dtype = torch.bfloat16 if half else torch.float32
        assert model.lm_head(torch.zeros(2, 32, device="cuda")).dtype == dtype
        rows = StaticRows(model, head, sample, frozenset({1, 2}), None)
        rows.join([3, 4], list(uniforms([(0, 0, 0, 0), (0, 0, 1, 0)], 20)), 1.0)
        shape = (len(rows.cache.lengths), config.num_key_value_heads, rows.cache.capacity, 8)
        rows.cache.buffers = [
            tuple(torch.zeros(shape, dtype=dtype, device="cuda") for _ in range(2))
            for _ in range(2)
        ]
        rows.start(0, torch.zeros(2, 32, device="cuda"))
        with packed(model):
            rows.run(LOOK)
            rows.leave({0})
            rows.run(LOOK)
        assert rows._log_probs.device.type == "cuda"
        with pytest.raises(DataDependentOutputException):
            rows.look()


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("qwen2", {}),
        ("qwen2", {"adapted": True}),
        ("qwen2", {"rope_parameters": {**YARN, "original_max_position_embeddings": 64}}),
        ("qwen3", {"tie_word_embeddings": True}),
        ("llama", {"num_key_value_heads": 4}),
        ("olmo2", {}),
    ],
)
def test_every_operation_of_a_step_exists_on_cuda_and_waits_for_nothing(
    family: str, more: dict[str, Any], half: bool
) -> None:
    run_on_fake_cuda(family, half, **more)


def test_a_model_that_asks_the_device_at_every_token_is_found_out() -> None:
    """Positions that are embedded by the longest of them: CUDA's own check says the same before a
    step is captured."""
    with pytest.raises(DataDependentOutputException):
        run_on_fake_cuda("llama", False, rope_parameters=DYNAMIC)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", ["phi", "opt", "gemma", "glm4", "olmo2", "nemotron", "qwen3_moe"]
)
def test_other_families_of_the_fast_path_are_decoded_so(family: str) -> None:
    model = make_model(family)
    assert find_sampling_path(ContinuousTransformersEngine, model, static=True) == ("static", {})
    fast, static = both(model, ends=frozenset(range(0, 160, 20)))
    options = {"max_new_tokens": 20, "temperature": 1.0}
    prompts, keys = [list(range(3, 9)), [7, 8], [9]] * 4, KEYS[:12]
    expected = fast.generate(prompts, keys, **options)
    assert_same(static.generate(prompts, keys, **options), expected, 1e-4)


def test_buckets_waste_at_most_a_quarter() -> None:
    sizes = [row_bucket(rows) for rows in range(1, 600)]
    assert sizes == sorted(sizes)
    assert all(rows <= size <= max(8, 1.25 * rows + 8) for rows, size in enumerate(sizes, 1))
    assert {row_bucket(size) for size in sizes} == set(sizes)
    assert [row_bucket(rows) for rows in (1, 8, 9, 64, 65, 128, 129, 256)] == [
        *(8, 8, 16, 64, 80, 128, 160, 256)
    ]
    assert [capacity_bucket(tokens) for tokens in (1, 256, 257)] == [256, 256, 512]


def test_it_is_tried_where_it_is_wanted() -> None:
    engine = ContinuousTransformersEngine
    assert find_sampling_path(engine, scripted.policy())[0] == "fast"
    assert find_sampling_path(engine, scripted.policy(), static=True) == ("static", {})


def test_what_disagrees_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: StaticRows, rows: int, capacity: int, step: Any = StaticRows._step) -> None:
        step(self, rows, capacity)
        for keys, _ in self.cache.buffers:
            keys.zero_()

    monkeypatch.setattr(StaticRows, "_step", forgetful)
    path, against = find_sampling_path(ContinuousTransformersEngine, scripted.policy(), static=True)
    assert path == "fast"
    assert "log-probs differ" in against["static"]


def test_memory_is_given_back() -> None:
    engine = TransformersEngine(scripted.policy(), None, ends=ENDS, path="static")
    engine.generate(PROMPTS, KEYS, max_new_tokens=3, temperature=1.0)
    assert engine._static is not None
    rest(engine)
    assert engine._static is None
    assert engine._weights is None


def test_a_copy_of_the_policy_is_decoded_so_too() -> None:
    model = scripted.policy()
    engine = CopiedEngine(
        model, scripted.tokenizer(), dtype=torch.float32, device="cpu", static=True
    )
    options = {"max_new_tokens": 12, "temperature": 1.0}
    for step in range(2):
        engine.take_weights(model.state_dict().items(), step)
        assert engine.path == "static"
        usual = ContinuousTransformersEngine(model, scripted.tokenizer(), path="fast")
        expected = usual.generate(PROMPTS, KEYS, **options)
        assert_same(engine.generate(PROMPTS, KEYS, **options), expected, 1e-5)
        rest(engine)
        assert engine._static is None
        with torch.no_grad():
            model.lm_head.weight.mul_(0.8)


@pytest.mark.parametrize("half", [False, True])
def test_attention_repeats_no_keys(half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever transformers does in its version: of a decoded token it is not asked."""
    module = SimpleNamespace(num_key_value_groups=3, is_causal=True)
    dtype = torch.bfloat16 if half else torch.float32
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw).to(dtype)

    query, key, value = random(4, 6, 1, 8), random(4, 2, 20, 8), random(4, 2, 20, 8)
    mask = torch.arange(20) <= torch.tensor([3, 0, 19, 7])[:, None, None, None]
    keys, values = (each.repeat_interleave(3, dim=1) for each in (key, value))
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, scale=0.3
    ).transpose(1, 2)
    theirs, _ = computing.sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)
    asked = []
    monkeypatch.setattr(
        computing, "sdpa_attention_forward", lambda *args, **_: asked.append(args) or (None, None)
    )
    ours, _ = computing.packed_attention(module, query, key, value, mask, scaling=0.3)
    assert not asked
    assert ours.shape == theirs.shape == (4, 1, 6, 8)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(theirs, expected)
    # What is out of the ordinary, and whole prompts, are theirs.
    computing.packed_attention(module, query, key, value, mask, softcap=30.0)
    computing.packed_attention(module, query, key, value, None)
    computing.packed_attention(module, query, keys, values, mask)
    computing.packed_attention(module, random(4, 6, 20, 8), key, value, mask)
    assert len(asked) == 4
