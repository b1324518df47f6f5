"""Splitting rows into micro-batches of similar length, under a budget of padded tokens."""

from __future__ import annotations

import torch
from torch import Tensor

SHORTEST = 0.5  # of the longest row in a group: below it padding costs more than another forward pass


def token_batches(lengths: Tensor, budget: int, together: Tensor | None = None) -> list[Tensor]:
    """Indices of rows (n,), longest first, in groups whose size times longest row stays within `budget` tokens.

    A row longer than the budget gets a group of its own, and no group mixes rows of very different lengths. Every row
    is in exactly one group.

    Args:
        together: (n,) Rows of the same number stay in one group, as far as the budget allows; None = each by itself.
    """
    sizes = [max(1, n) for n in lengths.tolist()]
    order = torch.argsort(lengths, descending=True, stable=True).tolist()
    keys = range(len(sizes)) if together is None else together.tolist()
    units: dict[int, list[int]] = {}
    for row in order:
        units.setdefault(keys[row], []).append(row)
    pieces = [piece for unit in units.values() for piece in _pieces(unit, max(1, budget // sizes[unit[0]]))]
    pieces.sort(key=lambda piece: -sizes[piece[0]])  # a stable sort
    groups: list[list[int]] = []
    for piece in pieces:
        longest = sizes[groups[-1][0]] if groups else 0
        similar = int(lengths[piece[0]]) >= SHORTEST * longest
        if groups and similar and (len(groups[-1]) + len(piece)) * longest <= budget:
            groups[-1] += piece
        else:
            groups.append([*piece])
    return [torch.tensor(group, device=lengths.device) for group in groups]


def _pieces(rows: list[int], size: int) -> list[list[int]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]
