"""Advantages per token from rewards per token. Only response positions (mask 1) take part."""

from __future__ import annotations

import torch
from torch import Tensor

from align.functional.masked import zero_outside


def penalise_kl(token_rewards: Tensor, logp: Tensor, ref_logp: Tensor, mask: Tensor, coef: float) -> Tensor:
    """Subtract the KL penalty from token rewards: r_t - coef * (log pi(y_t) - log pi_ref(y_t)).

    InstructGPT, arXiv 2203.02155, eq. 2. Returns (B, T), 0 outside mask.
    """
    return zero_outside(token_rewards - coef * (logp - ref_logp), mask)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Compute generalised advantage estimates (arXiv 1506.02438, eq. 16) over response tokens.

    The value after a response's last token is 0, whether it ended or was cut at the length limit: the episode is over
    either way, and a cut response is judged by `missing_eos_penalty`, not by what it might have become.

    Args:
        rewards: (B, T), KL penalty included.
        values: (B, T), the critic's estimate before token t is chosen.
        mask: (B, T), 1 = counts.

    Returns:
        advantages (B, T) and returns = advantages + values (B, T); 0 outside mask.
    """
    rewards, values = zero_outside(rewards, mask), zero_outside(values, mask)
    advantages = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(running)
    for t in reversed(range(rewards.shape[1])):
        # Past the last token value and running are 0, and stay so: masked rewards and values are 0.
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        running = delta + gamma * lam * running
        advantages[:, t] = running
        next_value = values[:, t]
    return zero_outside(advantages, mask), zero_outside(advantages + values, mask)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """Compute 1 - Var(returns - values) / Var(returns) over mask; 0 where the returns do not vary."""
    counts = mask.bool()
    returns, residual = returns[counts], (returns - values)[counts]
    variance = returns.var(unbiased=False)
    return float(1 - residual.var(unbiased=False) / variance) if variance > 1e-12 else 0.0
