"""Splitting rows into micro-batches of similar length, under a budget of padded tokens."""

from __future__ import annotations

import torch
from torch import Tensor

SHORTEST = 0.5  # of the longest row in a group: below it padding costs more than another forward pass


def token_batches(lengths: Tensor, budget: int) -> list[Tensor]:
    """Indices of rows (n,), longest first, in groups whose size times longest row stays within `budget` tokens.

    A row longer than the budget gets a group of its own, and no group mixes rows of very different lengths. Every row
    is in exactly one group.
    """
    order = torch.argsort(lengths, descending=True, stable=True)
    groups: list[Tensor] = []
    start = 0
    while start < len(order):
        rest = lengths[order[start:]]
        longest = max(1, int(rest[0]))
        similar = int((rest >= SHORTEST * longest).sum())
        size = max(1, min(similar, budget // longest))
        groups.append(order[start : start + size])
        start += size
    return groups
