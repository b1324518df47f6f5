"""Advantages from comparing the responses to one prompt. Row i belongs to group i // G."""

import torch
from torch import Tensor

from align.functional.masked import zero_outside

STD_EPS = 1e-4  # of GRPO's reference implementation; a group with one score for all gets advantage 0


def group_advantages(
    scores: Tensor, group_size: int, *, scale_std: bool, leave_one_out: bool = False, counted: Tensor | None = None
) -> Tensor:
    """Compute (r - baseline) / (std + 1e-4) within each group of >= 2: (B,). GRPO, arXiv 2402.03300, section 4.1.2.

    `scale_std` divides by the group's sample deviation. With the KL in the loss it rescales the reward against beta,
    prompt by prompt, so that the fixed point is not the KL-regularised optimum and, under k2, may lie far below the
    start; with the KL in the scores the optimum stays. Without it: Dr. GRPO, arXiv 2503.20783. `leave_one_out`: the
    baseline is the mean of the *other* responses (RLOO, arXiv 2402.14740), which is unbiased; the group's own mean
    shrinks every advantage by (G - 1) / G. Responses that `counted` (B,) bool leaves out, as they have no score, are in
    no baseline and no deviation, and have advantage 0; so has the only one that counts in its group.
    """
    mean, std, n = _moments(scores, group_size, counted)
    centred = scores.view(-1, group_size) - mean
    if leave_one_out:
        centred = centred * (n / (n - 1).clamp(min=1))
    if scale_std:
        centred = centred / (std + STD_EPS)
    return centred.view(-1) if counted is None else centred.view(-1).where(counted, 0.0)


def _moments(scores: Tensor, group_size: int, counted: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Compute mean, sample deviation and number of the scores that count, by group: (B / G, 1) each."""
    grouped = scores.view(-1, group_size)
    if counted is None:
        n = torch.full_like(grouped[:, :1], group_size)
        return grouped.mean(1, keepdim=True), grouped.std(1, keepdim=True), n
    inside = counted.view(-1, group_size)
    n = inside.sum(1, keepdim=True).to(scores.dtype)
    mean = grouped.where(inside, 0.0).sum(1, keepdim=True) / n.clamp(min=1)
    squares = (grouped - mean).where(inside, 0.0).square().sum(1, keepdim=True)
    return mean, (squares / (n - 1).clamp(min=1)).sqrt(), n


def zero_std_fraction(scores: Tensor, group_size: int, counted: Tensor | None = None) -> float:
    """Compute the share of groups whose responses all score the same, and so have no gradient."""
    return float((_moments(scores, group_size, counted)[1] < 1e-8).float().mean())


def reward_to_go(token_rewards: Tensor, mask: Tensor) -> Tensor:
    """Sum each token's reward and all later ones: (B, T), 0 outside mask."""
    rewards = zero_outside(token_rewards, mask)
    return zero_outside(rewards.flip(1).cumsum(1).flip(1), mask)


def group_centred(per_token: Tensor, mask: Tensor, group_size: int, *, scale_std: bool) -> Tensor:
    """Centre values (B, T) on the mean over the group's tokens, optionally divided by their deviation; 0 outside mask.

    With reward-to-go this is the dense counterpart of GRPO's advantage (after PRIME, arXiv 2502.01456, eq. 5).
    """
    rows, width = per_token.shape
    values = zero_outside(per_token, mask).view(-1, group_size * width)
    counts = mask.view(-1, group_size * width)
    n = counts.sum(1, keepdim=True).clamp(min=1)
    centred = values - values.sum(1, keepdim=True) / n
    if scale_std:
        variance = zero_outside(centred, counts).square().sum(1, keepdim=True) / (n - 1).clamp(min=1)
        centred = centred / (variance.sqrt() + STD_EPS)
    return zero_outside(centred.view(rows, width), mask)


def sequence_log_ratio(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """Compute the mean log-ratio of a response's tokens, at each of them: GSPO's ratio, arXiv 2507.18071, eq. 7."""
    total = zero_outside(log_ratio, mask).sum(1, keepdim=True)
    return zero_outside((total / mask.sum(1, keepdim=True).clamp(min=1)).expand_as(log_ratio), mask)


def token_weights(mask: Tensor, *, per_response: bool, constant: float | None, tokens: int, responses: int) -> Tensor:
    """Compute the weight of each token's loss in an update: (B, T), 0 outside mask.

    By default each token counts 1 / tokens (DAPO, arXiv 2503.14476, eq. 8). `per_response`: mean over each response's
    tokens, then over responses (GRPO), so that long responses' tokens count less. `constant` divides every response's
    sum by this length instead (Dr. GRPO, arXiv 2503.20783). `tokens` and `responses` are those of the whole update.
    """
    weights = mask.to(torch.float32)
    if constant is not None:
        return weights / (constant * responses)
    if per_response:
        return weights / (mask.sum(1, keepdim=True).clamp(min=1) * responses)
    return weights / tokens
