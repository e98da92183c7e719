"""The vLLM engine against the transformers engine, on one tiny policy in float32."""

import random
from typing import Any

import pytest
import scripted
import torch
import vllm_world

from sdar.errors import SdarError
from sdar.rollout.engines.base import Generation
from sdar.rollout.engines.transformers import TransformersEngine

KEYS = [(7, 3, slot, slot % 4) for slot in range(24)]


def greedy(engine: Any, prompts: list[list[int]], tokens: int = 24) -> list[Generation]:
    keys = KEYS[: len(prompts)]
    return engine.generate(prompts, keys, max_new_tokens=tokens, temperature=0.0)


def sampled(engine: Any, prompts: list[list[int]], keys: Any = KEYS) -> list[Generation]:
    return engine.generate(prompts, keys[: len(prompts)], max_new_tokens=24, temperature=0.8)


def assert_same(found: list[Generation], wanted: list[Generation]) -> None:
    assert [g.token_ids for g in found] == [g.token_ids for g in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-3)


def test_greedy_tokens_are_those_of_the_transformers_engine(engine: Any, policy: Any) -> None:
    prompts = vllm_world.prompts(24)
    wanted = greedy(TransformersEngine(policy, scripted.tokenizer()), prompts)
    assert_same(greedy(engine, prompts), wanted)
    assert len({tuple(g.token_ids) for g in wanted}) > 10, "the prompts must tell something apart"


def test_log_probs_are_at_temperature_one_whatever_the_sampling(engine: Any, policy: Any) -> None:
    prompts = vllm_world.prompts(24)
    found = sampled(engine, prompts)
    scores_SR = vllm_world.trusted(policy)(prompts, [g.token_ids for g in found])
    for row, generation in enumerate(found):
        wanted = scores_SR[row, : len(generation.token_ids)].tolist()
        assert generation.log_probs == pytest.approx(wanted, abs=1e-3)


def test_a_response_depends_on_its_prompt_and_key_alone(engine: Any) -> None:
    prompts = vllm_world.prompts(24)
    together = sampled(engine, prompts)
    order = list(range(24))
    random.Random(0).shuffle(order)
    mixed = sampled(engine, [prompts[i] for i in order], [KEYS[i] for i in order])
    assert_same(mixed, [together[i] for i in order])
    assert_same(sampled(engine, prompts[5:6], KEYS[5:]), together[5:6])
    other = sampled(engine, prompts, [(8, *key[1:]) for key in KEYS])
    assert [g.token_ids for g in other] != [g.token_ids for g in together]


def test_samples_follow_the_policys_distribution(engine: Any, policy: Any) -> None:
    prompt = vllm_world.prompts(1)[0]
    keys = [(0, 0, slot, 0) for slot in range(2000)]
    found = engine.generate([prompt] * 2000, keys, max_new_tokens=1, temperature=0.8)
    counts_V = torch.bincount(
        torch.tensor([g.token_ids[0] for g in found]), minlength=policy.config.vocab_size
    ).double()
    with torch.inference_mode():
        logits_V = policy(torch.tensor([prompt])).logits[0, -1].double()
    expected_V = 2000 * (logits_V / 0.8).softmax(-1)
    often_V = expected_V > 5
    chi2 = float(((counts_V - expected_V)[often_V] ** 2 / expected_V[often_V]).sum())
    free = int(often_V.sum())
    assert free > 5
    assert chi2 < free + 4 * (2 * free) ** 0.5


def test_a_response_ends_with_an_end_token_unless_cut_short(
    engine: Any, policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, prompts = scripted.tokenizer(), vllm_world.prompts(8)
    assert engine.ends == [tokenizer.eos_token_id]
    unbounded = sampled(engine, prompts)
    end = unbounded[0].token_ids[5]
    monkeypatch.setattr(engine, "ends", [end, tokenizer.eos_token_id])
    bounded = sampled(engine, prompts)
    for long, short in zip(unbounded, bounded, strict=True):
        stop = long.token_ids.index(end) + 1 if end in long.token_ids else len(long.token_ids)
        assert_same([short], [Generation(long.token_ids[:stop], long.log_probs[:stop])])
    assert bounded[0].token_ids[-1] == end
    assert max(len(g.token_ids) for g in bounded) == 24
    both = TransformersEngine(policy, tokenizer, ends=frozenset(engine.ends))
    assert_same(greedy(engine, prompts), greedy(both, prompts))


def test_continuous_steps_give_what_a_batch_gives(engine: Any) -> None:
    prompts = vllm_world.prompts(12)
    wanted = sampled(engine, prompts)
    found: dict[int, Generation] = {}
    ended: list[int] = []
    waiting = list(range(12))
    steps = 0
    while len(found) < 12:
        for name in waiting[:2]:
            engine.submit(name, prompts[name], KEYS[name], max_new_tokens=24, temperature=0.8)
        waiting = waiting[2:]
        new = engine.advance()
        steps += 1
        ended += [name for name, _ in new]
        found |= dict(new)
    assert engine.advance() == []
    assert_same([found[name] for name in range(12)], wanted)
    # A response of n tokens is there n steps after it was asked for.
    assert steps == max(name // 2 + len(wanted[name].token_ids) for name in range(12))


def test_scores_are_the_trainers(engine: Any, policy: Any) -> None:
    prompts = vllm_world.prompts(24)
    responses = [g.token_ids for g in sampled(engine, prompts)]
    wanted_SR = vllm_world.trusted(policy)(prompts, responses)
    # Twice: then whole sequences lie in the prefix cache.
    for _ in range(2):
        for row, scores in enumerate(engine.score(prompts, responses)):
            wanted = wanted_SR[row, : len(responses[row])].tolist()
            assert scores == pytest.approx(wanted, abs=1e-3)


def test_new_weights_are_followed_and_wrong_ones_caught(engine: Any, policy: Any) -> None:
    prompts = vllm_world.prompts(8)
    before = greedy(engine, prompts)
    kept = {name: value.clone() for name, value in policy.state_dict().items()}
    other = scripted.policy(seed=1, head=32, spread=2.0).state_dict()
    try:
        policy.load_state_dict(other)
        with pytest.raises(SdarError, match=r"rank 0, step 1: .* rollout\.vllm\.tolerance"):
            engine.take_weights(kept.items(), 1)  # stale ones
        without_head = [item for item in policy.state_dict().items() if item[0] != "lm_head.weight"]
        with pytest.raises(SdarError, match=r"lm_head\.weight"):
            engine.take_weights(without_head, 2)
        engine.take_weights(policy.state_dict().items(), 3)
        wanted = greedy(TransformersEngine(policy, scripted.tokenizer()), prompts)
        assert_same(greedy(engine, prompts), wanted)
        assert [g.token_ids for g in wanted] != [g.token_ids for g in before]
    finally:
        policy.load_state_dict(kept)
        engine.take_weights(policy.state_dict().items(), 4)
    assert_same(greedy(engine, prompts), before)
