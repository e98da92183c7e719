"""The terms of reinforcement learning: policy, entropy, and the anchor to the reference policy.

Legend: S samples, T tokens. All log-probs are of sampled tokens, in nats. Each term returns its
loss per token, [S, T], and statistics: means over the response tokens given, detached. Sources: PPO
(arXiv 1707.06347), dual clip (arXiv 1912.09729), KL estimators (J. Schulman, "Approximating KL
divergence", 2020), with the constants of the SDAR reference code.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from sdar.algorithms.aggregation import PerToken, clean, masked_mean, response_tokens
from sdar.errors import SdarError

KlEstimator = Literal["k1", "k2", "k3"]
KL_ESTIMATORS: tuple[str, ...] = get_args(KlEstimator)

# exp beyond this is outside every clip range already; without it an overflow to inf would turn
# the zero gradient of a clipped token into NaN.
_MAX_LOG_RATIO = 20.0
_K3_LIMIT = 10.0


def per_token(advantages: Tensor, like_ST: Tensor) -> Tensor:
    """Advantages per sample [S] or per token [S, T], detached and shaped to broadcast."""
    if advantages.dim() == like_ST.dim() - 1:
        advantages = advantages.unsqueeze(-1)
    return advantages.detach().expand(like_ST.shape)


def clipped_policy_loss(
    old_log_probs: Tensor,
    log_probs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
) -> PerToken:
    """PPO's clipped surrogate with dual clip.

    With r = exp(log_probs - old_log_probs), per token
    max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)); where A < 0, at most -A * dual_clip.

    Args:
        old_log_probs: [S, T] under the policy that sampled; no gradient.
        log_probs: [S, T] under the current policy; the gradient flows here.
        advantages: [S, T], or [S] for one per sample; no gradient.
        response_mask: [S, T], non-zero at response tokens.
        dual_clip: above 1; None switches it off.

    Returns:
        The loss per token; `clip_fraction` (the upper branch was taken), `dual_clip_fraction` and
        `approx_kl` (mean of old - new).
    """
    if dual_clip is not None and dual_clip <= 1:
        raise SdarError(f"dual_clip is {dual_clip}, expected above 1: raise training.dual_clip")
    mask_ST = response_tokens(response_mask)
    log_ratio_ST = clean(log_probs, mask_ST) - clean(old_log_probs.detach(), mask_ST)
    advantages_ST = clean(per_token(advantages, log_probs), mask_ST)
    ratio_ST = log_ratio_ST.clamp(max=_MAX_LOG_RATIO).exp()
    plain_ST = -advantages_ST * ratio_ST
    clipped_ST = -advantages_ST * ratio_ST.clamp(1 - clip_low, 1 + clip_high)
    loss_ST = torch.maximum(plain_ST, clipped_ST)
    dual_ST = torch.zeros_like(mask_ST)
    if dual_clip is not None:
        ceiling_ST = -advantages_ST * dual_clip
        dual_ST = (advantages_ST < 0) & (loss_ST.detach() > ceiling_ST)
        loss_ST = torch.where(advantages_ST < 0, torch.minimum(loss_ST, ceiling_ST), loss_ST)
    return loss_ST, {
        "clip_fraction": masked_mean((clipped_ST > plain_ST).to(loss_ST.dtype), mask_ST),
        "dual_clip_fraction": masked_mean(dual_ST.to(loss_ST.dtype), mask_ST),
        "approx_kl": masked_mean(-log_ratio_ST, mask_ST),
    }


def entropy_term(entropy: Tensor, response_mask: Tensor) -> PerToken:
    """The student's entropy per token [S, T], and its mean `entropy`; a loss subtracts it."""
    mask_ST = response_tokens(response_mask)
    entropy_ST = clean(entropy, mask_ST)
    return entropy_ST, {"entropy": masked_mean(entropy_ST, mask_ST)}


def reference_kl_loss(
    log_probs: Tensor, reference_log_probs: Tensor, response_mask: Tensor, *, estimator: str
) -> PerToken:
    """`reference_kl` per token [S, T], and its mean `reference_kl`."""
    mask_ST = response_tokens(response_mask)
    reference_ST = clean(reference_log_probs, mask_ST)
    kl_ST = reference_kl(clean(log_probs, mask_ST), reference_ST, estimator=estimator)
    return kl_ST, {"reference_kl": masked_mean(kl_ST, mask_ST)}


def importance_weights(
    old_log_probs: Tensor, engine_log_probs: Tensor, response_mask: Tensor, *, cap: float
) -> Tensor:
    """[S, T] truncated importance weights for samples of an engine that differs from the policy.

    min(exp(old - engine), cap): the factor from expectations under the engine's distribution to
    those under the policy's, cut so that rare tokens do not dominate (V-trace, arXiv 1802.01561;
    for engines, F. Yao et al., "Your efficient RL framework secretly brings you off-policy RL
    training", 2025). They are positive, and clip and dual clip are homogeneous in the
    advantage, so multiplying the advantages multiplies the policy term. 1 off the response.

    Args:
        old_log_probs: [S, T] by the trainer, engine_log_probs: [S, T] by what sampled, both at the
            temperature of sampling.
        cap: above 0.
    """
    mask_ST = response_tokens(response_mask)
    log_ratio_ST = clean(old_log_probs.detach() - engine_log_probs.detach(), mask_ST)
    return log_ratio_ST.clamp(max=_MAX_LOG_RATIO).exp().clamp(max=cap).masked_fill(~mask_ST, 1.0)


def reference_kl(
    log_probs: Tensor, reference_log_probs: Tensor, *, estimator: str = "k3"
) -> Tensor:
    """A per-token estimate of KL(policy || reference), differentiable in `log_probs`.

    With d = reference - log_probs: k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1. As in the
    reference code the *value* of k3 is cut at 10 (reached at d = 2.6 and d = -11), so a token
    further away no longer pulls back.

    Raises:
        SdarError: unknown estimator.
    """
    d_ST = reference_log_probs.detach() - log_probs
    if estimator == "k1":
        return -d_ST
    if estimator == "k2":
        return 0.5 * d_ST.square()
    if estimator == "k3":
        d_ST = d_ST.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
        return (d_ST.exp() - d_ST - 1).clamp(-_K3_LIMIT, _K3_LIMIT)
    raise SdarError(
        f"KL estimator is {estimator!r}, expected one of {', '.join(KL_ESTIMATORS)}: correct it"
    )
