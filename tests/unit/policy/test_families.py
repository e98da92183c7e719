"""Whatever the family, what is scored and sampled is what the model's own forward says.

One family for each way in which logits can be more than a head of hidden states, or a cache more
than keys and values. Expected values come from the plain forward, one sequence at a time.
"""

import copy
import re
from functools import cache, partial
from typing import Any

import numpy as np
import plain_forward
import pytest
import scripted
import torch
from model_families import DOCUMENT, END, FAMILIES, START, make_model
from plain_forward import gradients

from sdar.config.execution import LoraConfig
from sdar.errors import SdarError
from sdar.policy.log_probs import PolicyScorer, TeacherDistribution, copied_head, score_responses
from sdar.policy.lora import add_adapters, without_adapters
from sdar.policy.micro_batches import pad_batch
from sdar.policy.paths import scoring_path
from sdar.policy.probe import find_scoring_path
from sdar.policy.recomputation import recompute_layers
from sdar.policy.weights import named_full_weights
from sdar.rollout.engines.base import uniforms
from sdar.rollout.engines.copied import CopiedEngine, copy_without_weights
from sdar.rollout.engines.probe import find_sampling_path
from sdar.rollout.engines.transformers import TransformersEngine
from sdar.rollout.engines.transformers_continuous import ContinuousTransformersEngine

KINDS = {
    "granite": "divided logits",
    "cohere2": "multiplied logits, a window",
    "gemma2": "soft-capped logits, no SDPA, a window",
    "gemma3": "a configuration within the configuration",
    "mistral": "a window in every layer",
    "gpt2": "other names, learnt positions",
    "lfm2": "convolutions",
    "qwen3_next": "linear attention and experts",
    "mamba": "a state instead of a cache",
    "minicpm3": "latent attention, a scale before the head",
}
RANDOM = np.random.Generator(np.random.Philox(3))
PROMPTS = [RANDOM.integers(3, 150, size=n).tolist() for n in (5, 17, 40, 17, 1, 11)]
RESPONSES = [RANDOM.integers(3, 150, size=n).tolist() for n in (4, 1, 7, 3, 2, 7)]
naive = partial(plain_forward.scores, PROMPTS, RESPONSES)
"""[S, R] log-probs and entropies by the model's own forward."""


@cache
def kept(family: str) -> Any:
    return make_model(family, seed=5)


def close(found, wanted):
    scale = max(1.0, float(wanted.detach().abs().max()))
    torch.testing.assert_close(found, wanted, atol=1e-4 * scale, rtol=0)


@pytest.mark.parametrize("family", KINDS)
def test_scores_and_gradients_are_the_models_own(family):
    model = kept(family)
    wanted = naive(model)
    wanted_gradients = gradients(model, *wanted)
    scores = PolicyScorer(model)(pad_batch(PROMPTS, RESPONSES), entropy=True)
    close(scores.log_probs, wanted[0])
    close(scores.entropy, wanted[1])
    found = gradients(model, scores.log_probs, scores.entropy)
    assert found.keys() == wanted_gradients.keys()
    for name, gradient in found.items():
        close(gradient, wanted_gradients[name])
    colder = score_responses(PolicyScorer(model, temperature=0.5), PROMPTS, RESPONSES)
    with torch.no_grad():
        close(colder.log_probs, naive(model, temperature=0.5)[0])


def assert_drawn(model, prompt, key, generation, temperature):
    """Each token is the one that the key's random number takes, with its log-prob at 1."""
    draws = uniforms([key], len(generation.token_ids))[0]
    with torch.no_grad():
        ids = torch.tensor([prompt + generation.token_ids])
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].double()
    for place, token in enumerate(generation.token_ids):
        log_prob = float(logits[place].log_softmax(-1)[token])
        assert generation.log_probs[place] == pytest.approx(log_prob, abs=1e-4)
        if temperature == 0.0:
            assert float(logits[place].max() - logits[place, token]) < 1e-4
            continue
        up_to = (logits[place] / temperature).softmax(-1).cumsum(-1)
        below = float(up_to[token - 1]) if token else 0.0
        assert below - 1e-4 <= draws[place] <= float(up_to[token]) + 1e-4


@pytest.mark.parametrize("family", KINDS)
def test_tokens_are_drawn_from_the_models_own_logits(family):
    model, ends = kept(family), frozenset(range(0, 160, 6))
    engine = ContinuousTransformersEngine(model, None, ends=ends)
    keys = [(3, 1, slot, 2) for slot in range(len(PROMPTS))]
    for temperature in (0.0, 1.0):
        found = engine.generate(PROMPTS, keys, max_new_tokens=9, temperature=temperature)
        for prompt, key, generation in zip(PROMPTS, keys, found, strict=True):
            assert_drawn(model, prompt, key, generation, temperature)
    assert len({len(generation.token_ids) for generation in found}) > 1, "rows must leave early"
    # And where responses begin at different times.
    ended, waiting = [], list(enumerate(PROMPTS))
    while len(ended) < len(PROMPTS):
        for name, prompt in waiting[:2]:
            engine.submit(name, prompt, keys[name], max_new_tokens=9, temperature=1.0)
        waiting = waiting[2:]
        ended += engine.advance()
    for name, generation in ended:
        assert_drawn(model, PROMPTS[name], keys[name], generation, 1.0)


@pytest.mark.parametrize(
    ("family", "scoring", "sampling"),
    [
        ("qwen3", "fast", "fast"),
        ("llama", "fast", "fast"),
        ("granite", "general", "general"),
        ("mamba", "general", "single"),
    ],
)
def test_the_quickest_path_that_agrees_is_taken(family, scoring, sampling):
    model = make_model(family)
    state = torch.random.get_rng_state()
    against = find_scoring_path(model, PolicyScorer)
    path, _ = find_sampling_path(ContinuousTransformersEngine, model)
    assert (scoring_path(model), path) == (scoring, sampling)
    assert bool(against) == (scoring != "fast")
    assert torch.equal(torch.random.get_rng_state(), state), "no draw is spent on a trial"
    assert all(parameter.grad is None for parameter in model.parameters())
    assert scoring_path(copy.deepcopy(model)) == scoring, "a reference is scored alike"


def test_a_window_matters_only_to_sequences_that_reach_it():
    model = make_model("mistral", sliding_window=40)
    engine = ContinuousTransformersEngine
    assert find_sampling_path(engine, model, longest=40)[0] == "fast"
    assert find_sampling_path(engine, model, longest=41)[0] == "general"
    assert find_sampling_path(engine, model)[0] == "general"


def test_positions_that_depend_on_the_longest_of_a_batch():
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 8,
        "long_factor": [3.0] * 8,
        "original_max_position_embeddings": 40,
    }
    model = make_model(
        "phi3", sliding_window=None, original_max_position_embeddings=40, rope_parameters=rope
    )
    find_scoring_path(model, PolicyScorer, 40)
    assert scoring_path(model) == "fast"
    find_scoring_path(model, PolicyScorer)
    assert scoring_path(model) == "single"
    with torch.no_grad():
        close(PolicyScorer(model)(pad_batch(PROMPTS, RESPONSES)).log_probs, naive(model)[0])
    # What was sampled before the 40th token has other log-probs after it.
    assert find_sampling_path(ContinuousTransformersEngine, model, 40)[0] == "fast"
    with pytest.raises(SdarError, match=r"phi3 cannot be sampled from.*within 40 tokens"):
        find_sampling_path(ContinuousTransformersEngine, model)


class Wrapped:
    """A model's forward that adds to the logits."""

    def __init__(self, model: Any, change: Any) -> None:
        self.forward, self.change = model.forward, change

    def __call__(self, input_ids: Any, **options: Any) -> Any:
        output = self.forward(input_ids=input_ids, **options)
        output.logits = output.logits + self.change(input_ids, output.logits)
        return output


def first_row_only(ids, logits):
    """Rows of one batch disturb each other."""
    return (len(ids) - 1) * torch.linspace(0, 1, logits.shape[-1])


def test_a_model_whose_rows_disturb_each_other_takes_them_one_by_one():
    model = make_model("granite")
    model.forward = Wrapped(model, first_row_only)
    against = find_scoring_path(model, PolicyScorer)
    assert scoring_path(model) == "single"
    assert "log-probs differ" in against["general"]
    assert find_sampling_path(ContinuousTransformersEngine, model)[0] == "single"
    with torch.no_grad():
        close(PolicyScorer(model)(pad_batch(PROMPTS, RESPONSES)).log_probs, naive(model)[0])


def test_what_no_path_computes_is_refused_with_family_and_difference():
    model, calls = make_model("granite"), iter(range(10**6))
    model.forward = Wrapped(
        model, lambda ids, logits: next(calls) * torch.linspace(0, 1, logits.shape[-1])
    )
    with pytest.raises(SdarError, match=r"granite cannot be scored exactly.*differ by [\d.e+]+ n"):
        PolicyScorer(model)
    with pytest.raises(SdarError, match=r"granite cannot be sampled from exactly.*differ by") as e:
        TransformersEngine(model, None, ends=frozenset({1}))
    assert len(str(e.value)) < 1000
    assert "\n" not in str(e.value)


def test_a_wrong_gradient_alone_is_found():
    model = make_model("llama")
    model.model.register_forward_hook(
        lambda module, given, out: setattr(out, "last_hidden_state", out[0].detach())
    )
    model.config.num_hidden_layers = 8  # the trunk's own forward, not the shortened one
    plain = make_model("llama")
    model.forward = lambda input_ids, **options: plain(input_ids=input_ids, **options)
    for own, other in zip(model.parameters(), plain.parameters(), strict=True):
        other.data = own.data
    found = find_scoring_path_or_error(model)
    assert "gradients differ" in found


def find_scoring_path_or_error(model):
    try:
        return str(find_scoring_path(model, PolicyScorer))
    except SdarError as error:
        return str(error)


def test_a_forward_that_fails_is_told_in_a_sentence():
    model = make_model("granite")
    model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(SdarError, match="own forward of this granite model fails"):
        PolicyScorer(model)


def test_the_teachers_whole_distribution_too():
    model = kept("granite")
    teacher_prompts = [[7, 8, 9, *prompt] for prompt in PROMPTS]
    taught = score_responses(PolicyScorer(model), teacher_prompts, RESPONSES, hidden=True)
    teacher = TeacherDistribution(copied_head(model), taught.hidden, tuple(map(len, RESPONSES)))
    scored = PolicyScorer(model)(pad_batch(PROMPTS, RESPONSES), teacher=teacher.of(range(6), "cpu"))
    wanted = torch.zeros(6, 7)
    for row, response in enumerate(RESPONSES):
        with torch.no_grad():
            student, other = (
                model(input_ids=torch.tensor([ids + response]), use_cache=False)
                .logits[0, len(ids) - 1 : -1]
                .log_softmax(-1)
                for ids in (PROMPTS[row], teacher_prompts[row])
            )
        wanted[row, : len(response)] = (student.exp() * (student - other)).sum(-1)
    close(scored.divergence.detach(), wanted)
    assert wanted[0, 0] > 1e-3


@pytest.mark.parametrize("family", ["granite", "gemma2", "lfm2", "gpt2"])
def test_layers_are_recomputed_in_any_family(family):
    model = make_model(family)
    wanted = gradients(model, *naive(model))
    recompute_layers(model)
    scores = PolicyScorer(model)(pad_batch(PROMPTS, RESPONSES), entropy=True)
    for name, gradient in gradients(model, scores.log_probs, scores.entropy).items():
        close(gradient, wanted[name])


@pytest.mark.parametrize(
    ("family", "targets"), [("gpt2", ("c_attn", "c_proj")), ("lfm2", ("q_proj",))]
)
def test_adapters_are_merged_as_the_layer_has_its_weight(family, targets):
    model = make_model(family)
    with torch.no_grad():
        plain = naive(model)[0]
    add_adapters(model, LoraConfig(rank=4, alpha=8, targets=targets), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.2)
        adapted = naive(model)[0]
        with without_adapters(model):
            close(naive(model)[0], plain)
        other = make_model(family, seed=9)
        other.load_state_dict(dict(named_full_weights(model)))
        close(naive(other)[0], adapted)
    assert float((adapted - plain).abs().max()) > 0.01


def test_an_adapter_that_is_no_linear_layers_is_refused():
    model = make_model("gpt2")
    with pytest.raises(SdarError, match="Embedding, no linear layer"):
        add_adapters(model, LoraConfig(targets=("wte",)), seed=0)


@pytest.mark.parametrize("family", ["granite", "gemma2", "mamba"])
def test_a_copied_engine_computes_as_what_it_copies(family):
    model = make_model(family)
    model.generation_config.eos_token_id = 2
    engine = CopiedEngine(model, scripted.tokenizer(), dtype=torch.float32, device="cpu")
    assert engine.model.config._attn_implementation == model.config._attn_implementation
    engine.take_weights(named_full_weights(model), 0)
    keys = [(3, 1, slot, 2) for slot in range(len(PROMPTS))]
    found = engine.generate(PROMPTS, keys, max_new_tokens=5, temperature=1.0)
    for prompt, key, generation in zip(PROMPTS, keys, found, strict=True):
        assert_drawn(model, prompt, key, generation, 1.0)


def test_the_documents_table_is_of_the_scripts_families():
    made = DOCUMENT.read_text(encoding="utf-8").partition(START)[2].partition(END)[0]
    cells = [re.split(r" *\| *", line)[1:5] for line in made.strip().splitlines()[2:]]
    assert [row[0] for row in cells] == list(FAMILIES), (
        "python benchmarks/model_families.py --write"
    )
    assert len(FAMILIES) >= 25
    for family, scoring, sampling, apart in cells:
        assert "refused" in (scoring, sampling) or float(apart) <= 1e-4, family


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in KINDS])
def test_every_family_of_the_table(family):
    test_scores_and_gradients_are_the_models_own(family)
    test_tokens_are_drawn_from_the_models_own_logits(family)


@pytest.mark.parametrize("family", ["qwen3", "granite"])
def test_a_deep_model_in_16_bits_is_not_refused_for_its_rounding(family):
    model = make_model(family, num_hidden_layers=24).to(torch.bfloat16)
    against = find_scoring_path(model, PolicyScorer)
    path, _ = find_sampling_path(ContinuousTransformersEngine, model)
    wanted = "fast" if family == "qwen3" else "general"
    assert (scoring_path(model), path) == (wanted, wanted)
    assert bool(against) == (family == "granite")


@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma2", "granite"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_room_for_a_copy_is_made_without_drawing_weights_and_with_every_buffer(family, dtype):
    model = make_model(family)
    before = torch.random.get_rng_state()
    copied = copy_without_weights(model, dtype, "cpu")
    assert torch.equal(torch.random.get_rng_state(), before), "nothing was drawn"
    assert not any(value.is_meta for value in [*copied.parameters(), *copied.buffers()])
    kind = type(model)
    attention = model.config._attn_implementation
    config = copy.deepcopy(model.config)
    config.dtype = dtype
    drawn = kind._from_config(config, attn_implementation=attention, dtype=dtype)
    buffers = dict(drawn.named_buffers())
    assert {name for name, _ in copied.named_buffers()} == buffers.keys()
    for name, value in copied.named_buffers():
        if name not in copied.state_dict():
            assert value.dtype == buffers[name].dtype, name
            assert torch.equal(value, buffers[name]), name
    assert copied.lm_head.weight.dtype == dtype
    tied = drawn.lm_head.weight is drawn.get_input_embeddings().weight
    assert (copied.lm_head.weight is copied.get_input_embeddings().weight) is tied
