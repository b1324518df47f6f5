"""Losses per token, not reduced: callers sum over the mask and divide by the global token count."""

from __future__ import annotations

import torch
from torch import Tensor

from align.functional.masked import masked_sum


def log_ratio(logp: Tensor, old_logp: Tensor, mask: Tensor) -> Tensor:
    """Compute log pi / pi_old per token, exactly 0 outside mask, so that the ratio there is 1."""
    return torch.where(mask == 1, logp - old_logp, torch.zeros_like(logp))


def clipped_policy_loss(log_ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """Compute max(-A * ratio, -A * clip(ratio, 1 - clip_low, 1 + clip_high)), arXiv 1707.06347, eq. 7: (B, T)."""
    ratio = log_ratio.exp()
    return torch.max(-advantages * ratio, -advantages * ratio.clamp(1 - clip_low, 1 + clip_high))


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float) -> Tensor:
    """Compute half the larger squared error of the value and of the value clipped around the old: (B, T).

    N+ implementation details (arXiv 2403.17031), "value function loss clipping".
    """
    kept = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return 0.5 * torch.max((values - returns) ** 2, (kept - returns) ** 2)


def aggregate(per_token: Tensor, mask: Tensor, normaliser: float) -> Tensor:
    """Sum over mask and divide by `normaliser`, the token count of the whole update.

    With the global count, splitting a batch over micro-batches or ranks changes nothing.
    """
    return masked_sum(per_token, mask) / normaliser
