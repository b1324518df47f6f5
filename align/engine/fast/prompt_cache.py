"""Keys and values while a group of responses goes on from one prompt: the prompt's are held, and read, once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig

from align.engine.fast.limits import Limits
from align.engine.fast.roomy_cache import RoomyLayer, room_for


@dataclass(frozen=True)
class Grid:
    """Which prompt each of R rows goes on from: a place among `prompts` times `slots`, the most rows of a prompt."""

    which: Tensor  # (R,) int64
    prompts: int
    slots: int
    place: Tensor | None  # (R,) int64; None where the rows fill the grid in order

    @classmethod
    def of(cls, which: Tensor) -> Grid:
        """`which` (R,): prompts from 0 on, each with a row."""
        counts = torch.bincount(which)
        prompts, slots = len(counts), int(counts.max())
        order = torch.argsort(which, stable=True)
        first = (counts.cumsum(0) - counts)[which[order]]
        place = torch.empty_like(which)
        place[order] = which[order] * slots + torch.arange(len(which), device=which.device) - first
        in_order = prompts * slots == len(which) and bool((place.diff() == 1).all())
        return cls(which, prompts, slots, None if in_order else place)

    def take(self, rows: Tensor) -> tuple[Tensor, Grid]:
        """The prompts that these rows, in their order, go on from, and the rows' grid among them."""
        prompts, which = torch.unique(self.which[rows], return_inverse=True)
        return prompts, Grid.of(which)

    def laid_out(self, rows: Tensor) -> Tensor:
        """(R, ...) -> (prompts, slots, ...), 0 where a prompt has fewer rows."""
        if self.place is None:
            return rows.view(self.prompts, self.slots, *rows.shape[1:])
        grid = rows.new_zeros(self.prompts * self.slots, *rows.shape[1:])
        grid[self.place] = rows
        return grid.view(self.prompts, self.slots, *rows.shape[1:])

    def rows(self, grid: Tensor) -> Tensor:
        """(prompts, slots, ...) -> (R, ...)"""
        flat = grid.flatten(0, 1)
        return flat if self.place is None else flat[self.place]


class PromptCache(DynamicCache):
    """A DynamicCache for sampling, without gradients.

    Prompts of `held_once_from` tokens or more, padding counted, that are repeated for their groups are held once: from
    then on `attend` takes the place of `update`.
    """

    def __init__(self, config: PretrainedConfig, limits: Limits) -> None:
        super().__init__(config=config)
        self._held_once_from = limits.held_once_from
        self.layers: list[PromptLayer] = [PromptLayer(limits.room) for _ in self.layers]
        self.grid: Grid | None = None

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Rows for `repeats` responses to each prompt; short prompts are copied, as reading two parts is not free."""
        if repeats == 1 or self.get_seq_length() < self._held_once_from:
            super().batch_repeat_interleave(repeats)
            return
        prompts = torch.arange(len(self.layers[0].keys), device=self.layers[0].keys.device)
        self.grid = Grid.of(prompts.repeat_interleave(repeats))
        for layer in self.layers:
            layer.share(len(self.grid.which))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Go on with these rows alone, in this order."""
        if self.grid is None:
            super().batch_select_indices(indices)
            return
        prompts, self.grid = self.grid.take(indices)
        for layer in self.layers:
            layer.take(prompts, indices)

    def attend(
        self, index: int, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, scale: float
    ) -> Tensor:
        """Attention of one more token of each row in layer `index`, over its prompt and its own tokens.

        Scores and softmax are float32 on keys that are held in it; values, and weights at their product, in `value`'s
        type: what torch's kernel rounds.

        Args:
            query: (R, H, 1, d).
            key: (R, G, 1, d), appended to the row's own; value as well.
            hidden: (R, 1, 1, P + t) bool, True where a row does not see a key.
            scale: Of the scores.

        Returns:
            (R, H, d) of value's type
        """
        assert self.grid is not None
        return self.layers[index].attend(self.grid, query, key, value, hidden, scale)


class PromptLayer(RoomyLayer):
    """A layer's keys and values (B, G, S, d); after `share` the prompts', and beside them the rows' own."""

    def __init__(self, room: int) -> None:
        super().__init__(room)
        self._own_keys: Tensor | None = None  # (R, G, room, d) float32; None until `share`
        self._own_values: Tensor | None = None  # (R, G, room, d) of the values' type
        self._length = 0  # tokens of its own that each row has

    def get_seq_length(self) -> int:
        return super().get_seq_length() + self._length

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append tokens, as transformers' layers do; the first are slices of products that must not stay alive."""
        assert self._own_keys is None, "rows have tokens of their own: `attend`"
        if not self.is_initialized:
            key_states, value_states = key_states.contiguous(), value_states.contiguous()
        return super().update(key_states, value_states)

    def share(self, rows: int) -> None:
        """Keep `keys` and `values` as the prompts', which `rows` rows go on from."""
        self._held.clear()
        self.keys = self.keys.float()
        empty = (rows, self.keys.shape[1], 0, self.keys.shape[3])
        self._own_keys, self._own_values = self.keys.new_empty(empty), self.values.new_empty(empty)

    def take(self, prompts: Tensor, rows: Tensor) -> None:
        """Go on with these rows of these prompts alone."""
        if len(prompts) < len(self.keys):
            self.keys, self.values = self.keys[prompts], self.values[prompts]
        assert self._own_keys is not None and self._own_values is not None
        self._own_keys, self._own_values = self._own_keys[rows], self._own_values[rows]

    def attend(
        self, grid: Grid, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, scale: float
    ) -> Tensor:
        """See PromptCache.attend."""
        own_keys, own_values = self._append(key, value)
        rows, heads, _, width = query.shape
        groups = key.shape[1]
        queries = query.float().mul_(scale).view(rows, groups, heads // groups, width)
        on_prompt = _by_prompt(grid, queries, self.keys.transpose(2, 3))
        on_own = _product(queries.flatten(0, 1), own_keys.transpose(1, 2))
        scores = torch.cat([on_prompt, on_own.view(rows, groups, heads // groups, -1)], -1)
        if hidden is not None:
            scores.masked_fill_(hidden, torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, -1).to(value.dtype)
        of_prompt, of_own = weights.split([on_prompt.shape[-1], self._length], -1)
        from_own = _product(of_own.flatten(0, 1), own_values)
        return (_by_prompt(grid, of_prompt, self.values) + from_own.view(queries.shape)).reshape(rows, heads, width)

    def _append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The rows' own keys and values with one more token each: (R G, t, d), views."""
        at, self._length = self._length, self._length + 1
        assert self._own_keys is not None and self._own_values is not None
        self._own_keys = room_for(self._own_keys, at, 1, self._room)
        self._own_values = room_for(self._own_values, at, 1, self._room)
        self._own_keys[:, :, at : at + 1], self._own_values[:, :, at : at + 1] = key, value
        return self._own_keys[:, :, : at + 1].flatten(0, 1), self._own_values[:, :, : at + 1].flatten(0, 1)


def _by_prompt(grid: Grid, rows: Tensor, prompts: Tensor) -> Tensor:
    """Each row's (R, G, n, a) times its prompt's (U, G, a, b), all rows of a prompt in one product: (R, G, n, b)."""
    together = grid.laid_out(rows).transpose(1, 2)  # (U, G, slots, n, a)
    product = _product(together.reshape(-1, grid.slots * rows.shape[2], rows.shape[3]), prompts.flatten(0, 1))
    return grid.rows(product.view(*together.shape[:-1], -1).transpose(1, 2))


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Of batches of matrices of one type, in it: with `out` autocast stays away."""
    return torch.bmm(a, b, out=a.new_empty(len(a), a.shape[1], b.shape[2]))
