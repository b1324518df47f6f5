"""Passes without gradients over a rollout, in micro-batches of similar length."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from align.activity import Activity
from align.engine.reference import Policy, ValueHead
from align.functional.batching import token_batches
from align.functional.masked import zero_outside
from align.types import Rollout


def read_logprobs(
    policy: Policy, rollout: Rollout, temperature: float, budget: int, activity: Activity | None = None
) -> Tensor:
    """Compute the responses' log-probabilities under a role: (B, T) float32 nats, 0 outside the mask.

    Args:
        budget: Padded tokens of one forward pass, a prompt that rows share counted once.
    """
    shared = policy.shared_tokens(rollout.prompt_mask)
    parts = token_batches(rollout.attention_mask.sum(1), budget, rollout.prompt_index, shared)
    what = (activity or Activity(), "log-probabilities read")
    return _read(rollout, parts, lambda part: policy.response_logprobs(part, temperature), *what)


def read_values(critic: ValueHead, rollout: Rollout, budget: int, activity: Activity | None = None) -> Tensor:
    """Compute the value before each response token: (B, T) float32, 0 outside the mask."""
    parts = token_batches(rollout.attention_mask.sum(1), budget)
    return _read(rollout, parts, lambda part: critic.prefix_scores(part)[:, :-1], activity or Activity(), "values read")


@torch.no_grad()
def _read(
    rollout: Rollout, parts: Sequence[Tensor], of: Callable[[Rollout], Tensor], activity: Activity, what: str
) -> Tensor:
    """(B, T) of what `of` gives, (b, t), for the rows that each of `parts` names."""
    out = torch.zeros(rollout.response_ids.shape, device=rollout.response_ids.device)
    for index in activity.over(parts, what, len(rollout)):
        part = rollout.rows(index)
        found = of(part)
        out[index, : found.shape[1]] = zero_outside(found, part.response_mask)
    return out
