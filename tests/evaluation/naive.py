"""Log-probabilities by a loop, for comparison."""

from __future__ import annotations

import torch


@torch.no_grad()
def naive_nll(policy, context, target):
    """One token at a time, one row at a time, no padding."""
    total = 0.0
    for t, token in enumerate(target):
        ids = torch.tensor([[*context, *target[:t]]])
        logits = policy.model(ids).logits[0, -1].double()
        total -= float(torch.log_softmax(logits, -1)[token])
    return total
