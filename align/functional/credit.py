"""Credit assignment: how a response's score R is spread over its tokens, before any KL penalty.

Every function takes what it needs of the reward model's output and the response mask (B, T; 1 = counts) and returns
rewards per token (B, T), 0 outside the mask. Whether a scheme keeps the KL-regularised optimum of the score is said in
each docstring (share of the value gap to it that exact gradients close on an enumerable problem).
"""

from __future__ import annotations

import torch
from torch import Tensor

from align.functional.masked import masked_sum, zero_outside


def last_token(mask: Tensor) -> Tensor:
    """(B, T) one-hot of each response's last token; all zero for an empty response."""
    position = torch.arange(mask.shape[1], device=mask.device)
    return ((position == (mask.sum(1, keepdim=True) - 1)) & (mask == 1)).to(mask.dtype)


def sparse(total: Tensor, mask: Tensor) -> Tensor:
    """R at the last token (InstructGPT, arXiv 2203.02155). Keeps the optimum."""
    return total.unsqueeze(1) * last_token(mask)


def uniform(total: Tensor, mask: Tensor) -> Tensor:
    """R / T at every token: the control for density alone. Changes the optimum (closes .71-.99 of the gap)."""
    return total.unsqueeze(1) / mask.sum(1, keepdim=True).clamp(min=1) * mask


def prefix(prefix_scores: Tensor, mask: Tensor) -> Tensor:
    """R(x, y_<=t) - R(x, y_<t): potential-based shaping (Ng et al. 1999; RED, arXiv 2411.08302). Keeps the optimum
    where gamma is 1.

    Args:
        prefix_scores: (B, T + 1), the score of the first 0..T response tokens. Rewards sum to R - R(x, empty).
    """
    return zero_outside(prefix_scores[:, 1:] - prefix_scores[:, :-1], mask)


def attention(total: Tensor, weights: Tensor, mask: Tensor, mix: float = 0.8) -> Tensor:
    """mix * a_t * R + (1 - mix) * 1[t = T] * R (ABC, arXiv 2402.00782, with b = 0.8). Sums to R.

    Weights that depend on the response change the optimum (closes .76-.99 of the gap).

    Args:
        weights: (B, T) >= 0, the reward model's attention from the last token; normalised to 1 over the mask here. A
            row without any weight falls back to the last token, so that its rewards still sum to R.
    """
    sums = masked_sum(weights, mask, dim=1).unsqueeze(1)
    spread = torch.where(sums > 0, zero_outside(weights, mask) / sums.clamp(min=1e-12), last_token(mask).to(weights))
    return total.unsqueeze(1) * (mix * spread + (1 - mix) * last_token(mask))


def replace_unended(token_rewards: Tensor, mask: Tensor, ended: Tensor, penalty: float | None) -> Tensor:
    """Rewards in which a response without end token is paid `penalty` at its last token and nothing else.

    N+ implementation details (arXiv 2403.17031), "EOS trick": the penalty stands *instead of* the score. None leaves
    the rewards as they are. `ended` (B,) bool looks only at the response (TRL issue 6805).
    """
    if penalty is None:
        return token_rewards
    return torch.where(ended.unsqueeze(1), token_rewards, penalty * last_token(mask))
