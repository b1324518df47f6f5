"""Credit assignment: how a response's score R is spread over its tokens, before any KL penalty.

Every function takes what it needs of the source's output and the response mask (B, T; 1 = counts) and returns rewards
per token (B, T), 0 outside the mask. Each docstring states whether the scheme keeps the KL-regularised
optimum of the score, or the share of the value gap to it that exact gradients close on an enumerable problem. A scheme
keeps the optimum where its rewards sum to the score up to a constant of the prompt and each is settled by the tokens up
to its own: an advantage sums the rewards from a token on, and ignores earlier ones as independent of that token.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from align.functional.masked import masked_sum, zero_outside


def last_token(mask: Tensor) -> Tensor:
    """Return the one-hot (B, T) of each response's last token; all zero for an empty response."""
    position = torch.arange(mask.shape[1], device=mask.device)
    return ((position == (mask.sum(1, keepdim=True) - 1)) & (mask == 1)).to(mask.dtype)


def sparse(total: Tensor, mask: Tensor) -> Tensor:
    """Assign R to the last token (InstructGPT, arXiv 2203.02155). Keeps the optimum."""
    return total.unsqueeze(1) * last_token(mask)


def uniform(total: Tensor, mask: Tensor) -> Tensor:
    """Assign R / T to every token: the control for density alone. Changes the optimum (closes .71-.99 of the gap)."""
    return total.unsqueeze(1) / mask.sum(1, keepdim=True).clamp(min=1) * mask


def prefix(prefix_scores: Tensor, mask: Tensor, steps: Tensor | None = None) -> Tensor:
    """Assign to the end t of each step s..t the difference R(x, y_<=t) - R(x, y_<s).

    Potential-based shaping (Ng et al. 1999; RED, arXiv 2411.08302). Keeps the optimum where gamma is 1 and a step's end
    is settled by the tokens up to it. `prefix_scores` (B, T + 1) are those of the first 0..T response tokens; rewards
    sum to R - R(x, empty). `steps` (B, T) is 1 where a step ends with this token (`every_k`), as one always does with
    the last; None = every token is a step.
    """
    if steps is None:
        return zero_outside(prefix_scores[:, 1:] - prefix_scores[:, :-1], mask)
    ends = ((steps == 1) | (last_token(mask) == 1)) & (mask == 1)
    count = torch.arange(1, mask.shape[1] + 1, device=mask.device)  # tokens up to and including each
    settled = torch.where(ends, count, 0).cummax(1).values  # tokens at the end of the last whole step
    before = torch.nn.functional.pad(settled[:, :-1], (1, 0))
    return zero_outside(prefix_scores[:, 1:] - prefix_scores.gather(1, before), ends.long())


def prefix_sums(token_scores: Tensor) -> Tensor:
    """Compute the sum of the first 0..T token scores (B, T): (B, T + 1)."""
    return torch.nn.functional.pad(token_scores.cumsum(1), (1, 0))


def every_k(mask: Tensor, k: int) -> Tensor:
    """Return the ends (B, T) of steps of k tokens: 1 at every k-th token of a response."""
    position = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (position % k == 0).long() * mask


def attention(total: Tensor, weights: Tensor, mask: Tensor, mix: float = 0.8) -> Tensor:
    """Assign R by attention: mix * a_t * R + (1 - mix) * 1[t = T] * R (ABC, arXiv 2402.00782, with b = 0.8).

    Sums to R. Weights that depend on the response change the optimum (closes .76-.99 of the gap). `weights` (B, T) >= 0
    are the reward model's attention from the last token, normalised to 1 over the mask here. A row without any weight
    falls back to the last token, so that its rewards still sum to R.
    """
    sums = masked_sum(weights, mask, dim=1).unsqueeze(1)
    spread = torch.where(sums > 0, zero_outside(weights, mask) / sums.clamp(min=1e-12), last_token(mask).to(weights))
    return total.unsqueeze(1) * (mix * spread + (1 - mix) * last_token(mask))


def implicit(total: Tensor, log_ratio: Tensor, mask: Tensor, scale: float = 0.05, clip: float = 0.05) -> Tensor:
    """Add the implicit reward: clip(scale * log_ratio_t, +-clip) + 1[t = T] * R (RTO, arXiv 2404.18922, b1 = 0.05).

    This adds to R instead of spreading it, so the optimum becomes that of R + sum_t clip(...); without the clip it is
    pi_ref^(1 - scale/beta) * pi_dpo^(scale/beta) * exp(R / beta), normalised. `log_ratio` (B, T) is
    log pi_dpo(y_t) - log pi_ref(y_t) in nats.
    """
    return zero_outside((scale * log_ratio).clamp(-clip, clip), mask) + sparse(total, mask)


def spans(segments: Sequence[Sequence[tuple[int, int, float]]], offsets: Tensor, mask: Tensor) -> Tensor:
    """Assign each labelled segment's score to the token that holds its last character.

    Fine-grained RLHF (arXiv 2306.01693, section 3.1). Sums to the segments' scores; keeps the optimum of that sum where
    a segment's score is settled by the tokens up to its end. Segments are (start, end, score) in characters of each
    response's text, any number in any order; one past the text's end is paid at the last token. `offsets` (B, T, 2) are
    the characters [start, end) of each token.
    """
    rewards = torch.zeros(mask.shape)
    places, counted = offsets.cpu(), mask.cpu() == 1
    for i, row in enumerate(segments):
        last = int(counted[i].sum()) - 1
        for start, end, score in row if last >= 0 else ():
            final = max(end - 1, start)
            holds = ((places[i, :, 0] <= final) & (places[i, :, 1] > final) & counted[i]).nonzero()
            rewards[i, int(holds[0]) if len(holds) else last] += score
    return rewards.to(mask.device)


def own(token_scores: Tensor, mask: Tensor) -> Tensor:
    """Assign the source's own scores (B, T): of labelled segments, of a user's function, or of a world's true credit.

    Sums to the source's total; keeps its optimum as `spans` does.
    """
    return zero_outside(token_scores, mask)


def replace_truncated(token_rewards: Tensor, mask: Tensor, ended: Tensor, penalty: float | None) -> Tensor:
    """Replace the rewards of a response without end token by `penalty` at its last token.

    N+ implementation details (arXiv 2403.17031), "EOS trick": the penalty stands *instead of* the score. None leaves
    the rewards as they are. `ended` (B,) bool looks only at the response (TRL issue 6805).
    """
    if penalty is None:
        return token_rewards
    return torch.where(ended.unsqueeze(1), token_rewards, penalty * last_token(mask))
