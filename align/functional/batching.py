"""Micro-batches of rows of similar length, under a budget of padded tokens."""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

SHORTEST = 0.5  # share of a group's longest row: below it padding costs more than another forward pass


def token_batches(
    lengths: Tensor, budget: int, together: Tensor | None = None, shared: Tensor | None = None
) -> list[Tensor]:
    """Split rows (n,) into index groups, longest first, whose size times longest row is at most `budget` tokens.

    A row longer than the budget gets a group of its own, and no group mixes rows of very different lengths. Every row
    is in exactly one group. Rows of the same number in `together` (n,) stay in one group, as far as the budget allows
    (None = all separate); `shared` (n,) counts the tokens at each row's start that they have in common, which are read
    once per group (None = none).
    """
    known = lengths.tolist()
    sizes = [max(1, n) for n in known]
    common = [0] * len(sizes) if shared is None else shared.tolist()
    keys = range(len(sizes)) if together is None else together.tolist()
    units: dict[int, list[int]] = {}
    for row in sorted(range(len(known)), key=lambda row: -known[row]):  # a stable sort, as the one below
        units.setdefault(keys[row], []).append(row)

    def tokens(rows: list[int]) -> int:
        """Count the tokens of a forward pass on these rows, padding included and shared beginnings once."""
        counts = Counter(keys[row] for row in rows)
        once = {keys[row]: common[row] for row in rows if counts[keys[row]] > 1}
        longest = max(sizes[row] - once.get(keys[row], 0) for row in rows)
        return len(rows) * longest + len(once) * max(once.values(), default=0)

    pieces = [piece for unit in units.values() for piece in _pieces(unit, budget, tokens)]
    pieces.sort(key=lambda piece: -sizes[piece[0]])
    groups: list[list[int]] = []
    for piece in pieces:
        longest = sizes[groups[-1][0]] if groups else 0
        if groups and known[piece[0]] >= SHORTEST * longest and tokens(groups[-1] + piece) <= budget:
            groups[-1] += piece
        else:
            groups.append([*piece])
    return [torch.tensor(group, device=lengths.device) for group in groups]


def _pieces(rows: list[int], budget: int, tokens: Callable[[list[int]], int]) -> list[list[int]]:
    """Split rows, longest first, into pieces as large as the budget allows, at least one row each."""
    size = next((n for n in range(len(rows), 1, -1) if tokens(rows[:n]) <= budget), 1)
    return [rows[i : i + size] for i in range(0, len(rows), size)]
