"""Advantages: how much better a turn did than its group, and which tokens deserve the credit.

Legend: S samples (one sample is one turn of one episode), T tokens, N rows statistics are taken
over. Groups, episodes and observations are one hashable key per sample (a list, an array or a
tensor). Statistics are computed in float64 after subtracting each group's smallest return, so a
group of equal returns gives exact zeros whatever its scale: 1e-6 in the divisor would otherwise
blow rounding errors up. Nothing here carries gradient.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from sdar.algorithms.aggregation import clean, response_tokens
from sdar.algorithms.gates import teacher_gap
from sdar.errors import SdarError
from sdar.methods.declarations import CREDIT_CLIP

Keys = Sequence[Hashable] | Tensor
STATISTICS_OVER = ("steps", "episodes")
GIGPO_MODES = ("mean_std_norm", "mean_norm")


def _key_list(name: str, keys: Any, samples: int) -> list[Any]:
    values = keys.tolist() if hasattr(keys, "tolist") else list(keys)
    if len(values) != samples:
        raise ValueError(f"{name} has {len(values)} entries for {samples} samples")
    return values


def _codes(keys: Iterable[Hashable]) -> Tensor:
    """Integers from 0 in order of first appearance, equal where the keys are."""
    seen: dict[Hashable, int] = {}
    return torch.tensor([seen.setdefault(key, len(seen)) for key in keys], dtype=torch.long)


def _shifted_mean(values_N: Tensor, codes_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per group: smallest value, mean above it, number of values."""
    groups = int(codes_N.max()) + 1 if codes_N.numel() else 0
    smallest = values_N.new_full((groups,), torch.inf)
    smallest = smallest.scatter_reduce(0, codes_N, values_N, "amin")
    count = torch.bincount(codes_N, minlength=groups)
    above = values_N.new_zeros(groups).index_add(0, codes_N, values_N - smallest[codes_N])
    return smallest, above / count, count


def _standardised(
    values_S: Tensor,
    codes_S: Tensor,
    statistics_N: Tensor,
    codes_N: Tensor,
    *,
    divide: bool,
    epsilon: float,
    centre_singletons: bool,
) -> Tensor:
    """(values - mean) / (std + epsilon) with each group's mean and unbiased std over N rows.

    A group of one row has std 1, and mean 0 unless `centre_singletons`.
    """
    smallest, mean_above, count = _shifted_mean(statistics_N, codes_N)
    deviation_N = statistics_N - smallest[codes_N] - mean_above[codes_N]
    sum_of_squares = torch.zeros_like(smallest).index_add(0, codes_N, deviation_N.square())
    std = (sum_of_squares / (count - 1).clamp(min=1)).sqrt()
    single = count == 1
    std = std.masked_fill(single, 1.0)
    if not centre_singletons:
        smallest = smallest.masked_fill(single, 0.0)
        mean_above = mean_above.masked_fill(single, 0.0)
    centred_S = values_S - smallest[codes_S] - mean_above[codes_S]
    return centred_S / (std[codes_S] + epsilon) if divide else centred_S


def _like(result_S: Tensor, template: Tensor) -> Tensor:
    dtype = template.dtype if template.is_floating_point() else torch.get_default_dtype()
    return result_S.to(device=template.device, dtype=dtype)


def grpo_advantages(
    step_return: Tensor,
    group: Keys,
    episode: Keys,
    *,
    statistics_over: str = "steps",
    normalize_by_std: bool = True,
    epsilon: float = 1e-6,
) -> Tensor:
    """Group-relative advantages (GRPO, arXiv 2402.03300, as the SDAR reference applies it).

    Args:
        step_return: [S] the episode's return less this turn's penalty.
        group: [S] keys; the episodes of one task share one.
        episode: [S] keys of the episodes (unique within a group is enough).
        statistics_over: `steps`: mean and std over all turns of the group, long episodes weigh
            more; `episodes`: every episode counts once, with the mean of its turns' returns (the
            reference takes whichever turn comes first, which depends on the order of samples).
        normalize_by_std: divide by std + epsilon; otherwise only centre.

    Returns:
        [S]. A group with a single row of statistics has mean 0 and std 1.

    Raises:
        SdarError: unknown `statistics_over`. ValueError: lengths differ.
    """
    if statistics_over not in STATISTICS_OVER:
        raise SdarError(
            f"statistics_over is {statistics_over!r}, expected one of "
            f"{', '.join(STATISTICS_OVER)}: correct training.statistics_over"
        )
    samples = step_return.numel()
    values_S = step_return.detach().double().cpu()
    groups = _key_list("group", group, samples)
    codes_S = _codes(groups)
    statistics_N, codes_N = values_S, codes_S
    if statistics_over == "episodes":
        episode_codes_S = _codes(zip(groups, _key_list("episode", episode, samples), strict=True))
        smallest, above, _ = _shifted_mean(values_S, episode_codes_S)
        statistics_N = smallest + above
        codes_N = torch.zeros(len(statistics_N), dtype=torch.long)
        codes_N[episode_codes_S] = codes_S
    advantages_S = _standardised(
        values_S,
        codes_S,
        statistics_N,
        codes_N,
        divide=normalize_by_std,
        epsilon=epsilon,
        centre_singletons=False,
    )
    return _like(advantages_S, step_return)


def gigpo_advantages(
    episode_return: Tensor,
    discounted_step_return: Tensor,
    group: Keys,
    episode: Keys,
    anchor_observation: Keys,
    *,
    mode: str = "mean_std_norm",
    step_advantage_weight: float = 1.0,
    epsilon: float = 1e-6,
) -> Tensor:
    """Episode-relative plus turn-relative advantages (GiGPO, arXiv 2505.10978).

    The episode term is GRPO's over the turns of a group. The turn term compares the discounted
    returns of all turns of a group with the same observation; a turn alone with its observation
    gets 0.

    Args:
        episode_return: [S], repeated on each turn.
        discounted_step_return: [S], see `discounted_step_returns`.
        anchor_observation: [S] keys; equal means the same state.
        mode: `mean_std_norm` divides both terms by their std, `mean_norm` does not.

    Returns:
        [S] episode term + step_advantage_weight * turn term.
    """
    if mode not in GIGPO_MODES:
        raise SdarError(f"mode is {mode!r}, expected one of {', '.join(GIGPO_MODES)}: correct it")
    divide = mode == "mean_std_norm"
    episode_term_S = grpo_advantages(
        episode_return, group, episode, normalize_by_std=divide, epsilon=epsilon
    ).double()
    samples = episode_return.numel()
    groups = _key_list("group", group, samples)
    observations = _key_list("anchor_observation", anchor_observation, samples)
    codes_S = _codes(zip(groups, observations, strict=True))
    returns_S = discounted_step_return.detach().double().cpu()
    turn_term_S = _standardised(
        returns_S,
        codes_S,
        returns_S,
        codes_S,
        divide=divide,
        epsilon=epsilon,
        centre_singletons=True,
    ).to(episode_term_S.device)
    return _like(episode_term_S + step_advantage_weight * turn_term_S, episode_return)


def _episodes_in_turn_order(episode: Sequence[Hashable], turn: Sequence[Any]) -> list[list[int]]:
    rows: dict[Hashable, list[int]] = {}
    for row, key in enumerate(episode):
        rows.setdefault(key, []).append(row)
    return [sorted(members, key=lambda row: turn[row]) for members in rows.values()]


def discounted_step_returns(
    step_reward: Tensor, episode: Keys, turn: Keys, *, discount: float
) -> Tensor:
    """[S] R_k = r_k + discount * R_(k+1) along each episode, samples in any order.

    `episode` must tell episodes of different groups apart; `turn` orders an episode's samples.
    """
    samples = step_reward.numel()
    rewards = step_reward.detach().double().tolist()
    episodes = _key_list("episode", episode, samples)
    returns = [0.0] * samples
    for rows in _episodes_in_turn_order(episodes, _key_list("turn", turn, samples)):
        following = 0.0
        for row in reversed(rows):
            following = returns[row] = rewards[row] + discount * following
    return _like(torch.tensor(returns, dtype=torch.float64), step_reward)


def rlsd_token_advantages(
    seq_advantages: Tensor,
    student_log_probs: Tensor,
    teacher_log_probs: Tensor,
    response_mask: Tensor,
    *,
    mix: float,
    clip: float = CREDIT_CLIP,
) -> Tensor:
    """RLSD's redistribution of a sample's advantage over its tokens, as the SDAR reference has it.

    w = clip(exp(sign(A) * D), 1 - clip, 1 + clip), D = log p_teacher - log p_student with the
    student that sampled; A_t = A * [(1 - mix) + mix * w], zero off the response.

    Args:
        seq_advantages: [S], or [S, T] for a packed layout.
        student_log_probs, teacher_log_probs, response_mask: [S, T].
        mix: 0 leaves A as it is.
    """
    mask_ST = response_tokens(response_mask)
    advantages_ST = seq_advantages.detach()
    if advantages_ST.dim() == student_log_probs.dim() - 1:
        advantages_ST = advantages_ST.unsqueeze(-1)
    gap_ST = teacher_gap(clean(student_log_probs, mask_ST), clean(teacher_log_probs, mask_ST))
    weight_ST = (advantages_ST.sign() * gap_ST).exp().clamp(1 - clip, 1 + clip)
    return clean(advantages_ST * ((1 - mix) + mix * weight_ST), mask_ST)


def agent_opsd_advantages(
    seq_advantages: Tensor,
    student_log_probs: Tensor,
    teacher_log_probs: Tensor,
    response_mask: Tensor,
    group: Keys,
    episode: Keys,
    turn: Keys,
    success: Tensor,
    *,
    discount: float = 0.95,
    sensitivity: float = 0.2,
    clip: float = CREDIT_CLIP,
    mix: float = 0.5,
    epsilon: float = 1e-6,
) -> Tensor:
    """AgentOPSD's credit per turn (arXiv 2608.05987): the teacher's evidence as a value estimate.

    Per episode, turns k = 1..K: e_k = sum of D over the turn's response, c_k = discount * c_(k-1)
    + e_k, V_k = sigmoid(logit V_0 + c_k), V_0 the group's success rate over episodes (one half
    when that is 0 or 1), q_k = sign(A) * (V_k - V_(k-1)), z = q standardised within the episode
    (unbiased std; 0 for a single turn), w = clip(1 + sensitivity * z, 1 - clip, 1 + clip).

    Args:
        seq_advantages: [S].
        student_log_probs: [S, T] of the policy that sampled; teacher_log_probs, response_mask too.
        turn: [S] orders an episode's samples.
        success: [S] 0 or 1, the episode's outcome, on each of its turns.

    Returns:
        [S] A * [(1 - mix) + mix * w].
    """
    samples = seq_advantages.numel()
    groups = _key_list("group", group, samples)
    keys = list(zip(groups, _key_list("episode", episode, samples), strict=True))
    outcome = success.detach().double().tolist()
    rates: dict[Hashable, list[float]] = {}
    episodes = _episodes_in_turn_order(keys, _key_list("turn", turn, samples))
    for rows in episodes:
        rates.setdefault(groups[rows[0]], []).append(outcome[rows[0]])

    mask_ST = response_tokens(response_mask)
    gap_ST = teacher_gap(clean(student_log_probs, mask_ST), clean(teacher_log_probs, mask_ST))
    evidence_S = gap_ST.double().sum(dim=-1).cpu()
    sign_S = seq_advantages.detach().double().cpu().sign()
    weight_S = torch.ones(samples, dtype=torch.float64)
    for rows in episodes:
        if len(rows) == 1:
            continue
        wins = rates[groups[rows[0]]]
        rate = sum(wins) / len(wins)
        prior = torch.logit(torch.tensor(rate if 0 < rate < 1 else 0.5, dtype=torch.float64))
        carried = [torch.zeros((), dtype=torch.float64)]
        for row in rows:
            carried.append(discount * carried[-1] + evidence_S[row])
        value_K = torch.sigmoid(prior + torch.stack(carried))
        credit_K = sign_S[rows] * value_K.diff()
        z_K = (credit_K - credit_K.mean()) / (credit_K.std() + epsilon)
        weight_S[rows] = (1 + sensitivity * z_K).clamp(1 - clip, 1 + clip)
    weight_S = weight_S.to(seq_advantages.device)
    mixed_S = seq_advantages.detach().double() * ((1 - mix) + mix * weight_S)
    return _like(mixed_S, seq_advantages)
