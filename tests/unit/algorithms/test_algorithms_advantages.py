"""Properties of the advantage estimators."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdar.algorithms.advantages import (
    agent_opsd_advantages,
    discounted_step_returns,
    gigpo_advantages,
    grpo_advantages,
    rlsd_token_advantages,
)
from sdar.errors import SdarError


@dataclass(frozen=True)
class Turns:
    """Samples of a step: groups of at least two episodes, each of one or more turns."""

    returns: Tensor
    group: list[int]
    episode: list[tuple[int, int]]
    turn: list[int]


@st.composite
def steps(draw: st.DrawFn) -> Turns:
    returns, group, episode, turn = [], [], [], []
    for g in range(draw(st.integers(1, 3))):
        for e in range(draw(st.integers(2, 4))):
            won = draw(st.booleans())
            for k in range(draw(st.integers(1, 3))):
                penalty = draw(st.sampled_from([0.0, 0.1]))
                returns.append(10.0 * won - penalty)
                group.append(g)
                episode.append((g, e))
                turn.append(k)
    return Turns(torch.tensor(returns, dtype=torch.float64), group, episode, turn)


some = settings(max_examples=50, deadline=None)
over = st.sampled_from(["steps", "episodes"])


@some
@given(turns=steps(), statistics_over=over, divide=st.booleans(), shift=st.integers(-20, 20))
def test_adding_a_constant_to_a_groups_returns_changes_nothing(
    turns: Turns, statistics_over: str, divide: bool, shift: int
) -> None:
    inside = torch.tensor(turns.group) == 0
    moved = turns.returns + shift * inside.double()
    before, after = (
        grpo_advantages(
            values,
            turns.group,
            turns.episode,
            statistics_over=statistics_over,
            normalize_by_std=divide,
        )
        for values in (turns.returns, moved)
    )
    torch.testing.assert_close(after, before, rtol=0, atol=1e-7)


@some
@given(
    turns=steps(),
    statistics_over=over,
    value=st.floats(-100, 100),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_equal_returns_give_exact_zeros(
    turns: Turns, statistics_over: str, value: float, dtype: torch.dtype
) -> None:
    returns = torch.full_like(turns.returns, value, dtype=dtype)
    result = grpo_advantages(returns, turns.group, turns.episode, statistics_over=statistics_over)
    assert result.dtype == dtype
    assert result.eq(0).all()


@some
@given(turns=steps(), statistics_over=over, seed=st.integers(0, 99))
def test_the_order_of_samples_does_not_matter(
    turns: Turns, statistics_over: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(turns.group), generator=generator)
    rows = order.tolist()
    group, episode = [turns.group[r] for r in rows], [turns.episode[r] for r in rows]
    permuted = grpo_advantages(
        turns.returns[order], group, episode, statistics_over=statistics_over
    )
    straight = grpo_advantages(
        turns.returns, turns.group, turns.episode, statistics_over=statistics_over
    )
    torch.testing.assert_close(permuted, straight[order], rtol=1e-9, atol=1e-9)
    student, teacher, mask = token_tensors(len(rows), seed)
    success = (turns.returns > 5).double()
    straight = agent_opsd_advantages(
        straight, student, teacher, mask, turns.group, turns.episode, turns.turn, success
    )
    permuted = agent_opsd_advantages(
        permuted,
        student[order],
        teacher[order],
        mask[order],
        group,
        episode,
        [turns.turn[r] for r in rows],
        success[order],
    )
    torch.testing.assert_close(permuted, straight[order], rtol=1e-6, atol=1e-6)


def token_tensors(samples: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = -torch.rand(2, samples, 4, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, 5, (samples, 1), generator=generator)
    return student, teacher, torch.arange(4) < lengths


@some
@given(turns=steps(), divide=st.booleans())
def test_normalised_advantages_have_mean_zero_and_std_one(turns: Turns, divide: bool) -> None:
    result = grpo_advantages(turns.returns, turns.group, turns.episode, normalize_by_std=divide)
    for g in set(turns.group):
        inside = torch.tensor(turns.group) == g
        assert result[inside].mean().item() == pytest.approx(0, abs=1e-6)
        spread = turns.returns[inside].std().item()
        expected = spread / (spread + 1e-6) if divide else spread
        assert result[inside].std().item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("statistics_over", ["steps", "episodes"])
def test_long_episodes_weigh_more_over_steps_only(statistics_over: str) -> None:
    result = grpo_advantages(
        torch.tensor([10.0, 10.0, 10.0, 0.0]),
        ["a"] * 4,
        ["x", "x", "x", "y"],
        statistics_over=statistics_over,
        normalize_by_std=False,
    )
    centre = 7.5 if statistics_over == "steps" else 5.0
    assert result.tolist() == [10 - centre] * 3 + [-centre]


def test_episodes_of_the_same_name_in_two_groups_are_two_episodes() -> None:
    result = grpo_advantages(
        torch.tensor([10.0, 0.0, 4.0, 0.0]),
        torch.tensor([0, 0, 1, 1]),
        torch.tensor([0, 1, 0, 1]),
        statistics_over="episodes",
        normalize_by_std=False,
    )
    assert result.tolist() == [5.0, -5.0, 2.0, -2.0]


def test_a_single_row_has_mean_zero_and_std_one() -> None:
    result = grpo_advantages(torch.tensor([3.0], dtype=torch.float64), ["g"], ["e"])
    assert result.item() == pytest.approx(3.0 / (1 + 1e-6))


@some
@given(turns=steps(), mode=st.sampled_from(["mean_std_norm", "mean_norm"]))
def test_gigpo_with_distinct_observations_is_the_episode_term_plus_zero(
    turns: Turns, mode: str
) -> None:
    step_returns = discounted_step_returns(turns.returns, turns.episode, turns.turn, discount=0.95)
    episode_term = grpo_advantages(
        turns.returns, turns.group, turns.episode, normalize_by_std=mode == "mean_std_norm"
    )
    result = gigpo_advantages(
        turns.returns,
        step_returns,
        turns.group,
        turns.episode,
        list(range(len(turns.group))),
        mode=mode,
    )
    assert torch.equal(result, episode_term)


def test_gigpo_compares_turns_before_the_same_observation_within_a_group() -> None:
    # The same observation in another group is another turn group.
    result = gigpo_advantages(
        torch.tensor([10.0, 0.0, 10.0, 0.0], dtype=torch.float64),
        torch.tensor([9.0, 1.0, 10.0, 0.0], dtype=torch.float64),
        ["a", "a", "b", "b"],
        ["x", "y", "z", "w"],
        ["room", "room", "room", "hall"],
        mode="mean_norm",
        step_advantage_weight=0.5,
    )
    assert result.tolist() == [5 + 2, -5 - 2, 5, -5]


def test_discounted_returns_follow_the_turns_in_any_order() -> None:
    result = discounted_step_returns(
        torch.tensor([10.0, 0.0, -0.1, 0.0]), ["x", "x", "y", "x"], [2, 0, 0, 1], discount=0.5
    )
    torch.testing.assert_close(result, torch.tensor([10.0, 2.5, -0.1, 5.0]))


@some
@given(seed=st.integers(0, 2**31), mix=st.floats(0, 1), clip=st.floats(0, 0.9))
def test_rlsd_stays_within_the_clip_and_mix_zero_is_the_advantage(
    seed: int, mix: float, clip: float
) -> None:
    student, teacher, mask = token_tensors(3, seed)
    advantages = torch.tensor([1.5, 0.0, -2.0], dtype=torch.float64)
    result = rlsd_token_advantages(advantages, student, teacher, mask, mix=mix, clip=clip)
    assert result[~mask].eq(0).all()
    off = (result - advantages.unsqueeze(1)).abs()[mask]
    assert (off <= mix * clip * 2 + 1e-12).all()
    plain = rlsd_token_advantages(advantages, student, teacher, mask, mix=0.0, clip=clip)
    assert torch.equal(plain, advantages.unsqueeze(1) * mask)
    # A success is credited more, a failure blamed less, where the teacher likes the token better.
    prefers = (teacher > student) & mask
    assert (result >= advantages.unsqueeze(1) - 1e-12)[prefers].all()


def test_rlsd_takes_packed_advantages() -> None:
    student, teacher, mask = token_tensors(2, 0)
    advantages = torch.tensor([1.0, -1.0], dtype=torch.float64)
    padded = rlsd_token_advantages(advantages, student, teacher, mask, mix=0.5)
    packed = rlsd_token_advantages(
        advantages.unsqueeze(1).expand(mask.shape)[mask].unsqueeze(0),
        student[mask].unsqueeze(0),
        teacher[mask].unsqueeze(0),
        torch.ones(1, int(mask.sum())),
        mix=0.5,
    )
    assert torch.equal(packed[0], padded[mask])


def test_agent_opsd_against_a_hand_computed_episode() -> None:
    # Two turns with evidence ln 3 and 0, success rate one half, discount 1/2:
    # c = ln 3, ln(3)/2, V = 1/2, 3/4, sqrt 3/(1 + sqrt 3).
    evidence = torch.tensor(3.0, dtype=torch.float64).log()
    teacher = torch.tensor([[-1.0, 9.0], [-1.0, -2.0], [-1.0, -1.0]], dtype=torch.float64)
    student = teacher.clone()
    student[0, 0] -= evidence
    student[0, 1] = 0.0  # masked
    mask = torch.tensor([[1, 0], [1, 1], [1, 1]])
    result = agent_opsd_advantages(
        torch.tensor([2.0, 2.0, -2.0], dtype=torch.float64),
        student,
        teacher,
        mask,
        ["g", "g", "g"],
        ["won", "won", "lost"],
        [0, 1, 0],
        torch.tensor([1.0, 1.0, 0.0]),
        discount=0.5,
    )
    value = 3**0.5 / (1 + 3**0.5)
    q = torch.tensor([0.25, value - 0.75], dtype=torch.float64)
    z = (q - q.mean()) / (q.std() + 1e-6)
    expected = 2.0 * (0.5 + 0.5 * (1 + 0.2 * z).clamp(0.8, 1.2))
    torch.testing.assert_close(result[:2], expected, rtol=1e-12, atol=1e-12)
    assert result[2] == -2.0


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_agent_opsd_starts_at_one_half_when_a_group_all_won_or_all_lost(outcome: float) -> None:
    teacher = torch.tensor([[0.0], [0.0]], dtype=torch.float64)
    student = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    result = agent_opsd_advantages(
        torch.tensor([2.0, 2.0], dtype=torch.float64),
        student,
        teacher,
        torch.ones(2, 1),
        ["g", "g"],
        ["e", "e"],
        [0, 1],
        torch.full((2,), outcome),
    )
    # The first turn's evidence is +1, the second's -1: credit moves to the first.
    z = 0.5**0.5
    expected = torch.tensor([2 + 0.2 * z, 2 - 0.2 * z], dtype=torch.float64)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=0)


@some
@given(turns=steps(), seed=st.integers(0, 2**31))
def test_agent_opsd_without_evidence_or_mix_is_the_advantage(turns: Turns, seed: int) -> None:
    student, teacher, mask = token_tensors(len(turns.group), seed)
    advantages = grpo_advantages(turns.returns, turns.group, turns.episode)
    success = (turns.returns > 5).double()
    keys = (turns.group, turns.episode, turns.turn, success)
    silent = agent_opsd_advantages(advantages, student, student, mask, *keys)
    torch.testing.assert_close(silent, advantages, rtol=0, atol=0)
    unmixed = agent_opsd_advantages(advantages, student, teacher, mask, *keys, mix=0.0)
    torch.testing.assert_close(unmixed, advantages, rtol=0, atol=0)


def test_bad_choices_and_lengths_are_refused() -> None:
    returns = torch.zeros(2)
    with pytest.raises(SdarError, match="steps, episodes"):
        grpo_advantages(returns, ["a", "a"], ["x", "y"], statistics_over="turns")
    with pytest.raises(SdarError, match="mean_std_norm, mean_norm"):
        gigpo_advantages(returns, returns, ["a"] * 2, ["x", "y"], ["o"] * 2, mode="std")
    with pytest.raises(ValueError, match="group has 1 entries for 2 samples"):
        grpo_advantages(returns, ["a"], ["x", "y"])
