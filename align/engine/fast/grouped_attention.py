"""Attention as products and a softmax: on CPUs faster than torch's fused kernel, gradient included, if not too long.

In bf16 at 64 to 128 queries two to three times as fast (`python scripts/bench/techniques.py --attention`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from align.engine.compat import softmax_gradient

AT_ONCE = 2**19  # scores: few enough to stay in the processor's cache


@dataclass(frozen=True)
class SharedPrefix:
    """Keys and values of U prompts, each shared by the rows that begin with it."""

    key: Tensor  # (U, G, P, d)
    value: Tensor  # (U, G, P, d)
    which: Tensor  # (B,) int64, each row's

    def to(self, dtype: torch.dtype) -> SharedPrefix:
        return SharedPrefix(self.key.to(dtype), self.value.to(dtype), self.which)

    def rows(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's prompt and its own (B, G, T, d) behind it: (B, G, P + T, d)."""
        return _behind(self.key, key, self.which), _behind(self.value, value, self.which)


def grouped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    hidden: Tensor | None,
    scale: float,
    prefix: SharedPrefix | None = None,
    at_once: int = AT_ONCE,
) -> Tensor:
    """softmax(scale Q K' + mask) V, heads that share keys and values as rows of one product.

    Scores and softmax are float32; the products with the weights, and all of the gradient's, are in the inputs' type,
    as in the fused kernel. What is kept for the gradient is the weights in that type, B H T S of them, and a prompt's
    keys once for all of its rows.

    Args:
        query: (B, H, T, d), contiguous or not; H a multiple of G.
        key: (B, G, S, d), of query's type.
        value: (B, G, S, d), of query's type.
        hidden: (B or 1, 1, T, S) bool, True where a query does not see a key; a query that sees none gets 0.
        scale: Of the scores, usually d ** -0.5.
        prefix: Keys and values before the rows' own, of query's type; S in the mask is of both then.
        at_once: Scores that are worked on at once.

    Returns:
        (B, H, T, d)
    """
    shared = (None, None, None) if prefix is None else (prefix.key, prefix.value, prefix.which)
    return _GroupedAttention.apply(query, key, value, hidden, scale, *shared, at_once)


class _GroupedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        hidden: Tensor | None,
        scale: float,
        prefix_key: Tensor | None,
        prefix_value: Tensor | None,
        which: Tensor | None,
        at_once: int,
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):  # scores stay in float32
            rows, heads, length, _ = query.shape
            groups, width = key.shape[1], key.shape[2] + (0 if prefix_key is None else prefix_key.shape[2])
            out = query.new_empty(query.shape)
            kept = any(ctx.needs_input_grad)
            weights = query.new_empty(rows, groups, heads // groups * length, width) if kept else None
            blind = None if hidden is None else hidden.all(-1, keepdim=True)
            blind = blind if blind is not None and bool(blind.any()) else None
            for part in _parts(rows, heads * length * width, at_once):
                q = _grouped(query[part], groups)
                k, v = (_of_rows(*both, which, part) for both in ((key, prefix_key), (value, prefix_value)))
                scores = torch.bmm(q.float() * scale, k.float().transpose(1, 2))
                by_head = scores.view(-1, heads, length, width)
                if hidden is not None:
                    by_head.masked_fill_(_of(hidden, part), torch.finfo(scores.dtype).min)
                soft = torch.softmax(scores, -1, out=scores)
                if blind is not None:
                    by_head.masked_fill_(_of(blind, part), 0)
                typed = soft.to(q.dtype) if weights is None else weights[part].view(soft.shape).copy_(soft)
                torch.bmm(typed, v, out=out[part].view(q.shape))
            if weights is not None:
                ctx.save_for_backward(query, key, value, weights, prefix_key, prefix_value, which)
                ctx.scale, ctx.at_once = scale, at_once
            return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast("cpu", enabled=False):
            query, key, value, weights, prefix_key, prefix_value, which = ctx.saved_tensors
            shared = prefix_key, prefix_value  # their gradients are summed over rows in float32
            groups = key.shape[1]
            dq, dk, dv = (t.new_empty(t.shape) for t in (query, key, value))
            of_prefix = [None if t is None else t.new_zeros(t.shape, dtype=torch.float32) for t in shared]
            for part in _parts(len(query), weights[0].numel(), ctx.at_once):
                q, above = (_grouped(t[part], groups) for t in (query, gradients[0]))
                k, v = (_of_rows(*both, which, part) for both in ((key, prefix_key), (value, prefix_value)))
                w = weights[part].flatten(0, 1)
                _product(w.transpose(1, 2), above, dv, of_prefix[1], which, part)
                through = torch.bmm(above, v.transpose(1, 2))
                through = softmax_gradient(through, w).mul_(ctx.scale)
                torch.bmm(through, k, out=dq[part].view(q.shape))
                _product(through.transpose(1, 2), q, dk, of_prefix[0], which, part)
            of_prefix = [None if t is None else t.to(query.dtype) for t in of_prefix]
            return dq, dk, dv, None, None, *of_prefix, None, None


def _product(left: Tensor, right: Tensor, own: Tensor, total: Tensor | None, which: Tensor, part: slice) -> None:
    """left right, gradients of a part's keys or values: the rows' own go to `own`, a prompt's are added to `total`."""
    if total is None:
        torch.bmm(left, right, out=own[part].flatten(0, 1))
        return
    found, start = torch.bmm(left, right).unflatten(0, (-1, own.shape[1])), total.shape[2]
    own[part] = found[:, :, start:]
    total.index_add_(0, which[part], found[:, :, :start].float())


def _grouped(states: Tensor, groups: int) -> Tensor:
    """(B, H, T, d) -> (B G, H/G T, d)."""
    batch, heads, length, width = states.shape
    return states.reshape(batch * groups, heads // groups * length, width)


def _of_rows(own: Tensor, prefix: Tensor | None, which: Tensor | None, part: slice) -> Tensor:
    """Keys or values that a part of the rows sees, (b G, S, d): put together anew, as they stay in the cache."""
    rows = own[part]
    if prefix is not None and which is not None:
        rows = _behind(prefix, rows, which[part])
    return rows.reshape(-1, *rows.shape[2:])


def _behind(prefix: Tensor, own: Tensor, which: Tensor) -> Tensor:
    """(U, G, P, d) and (B, G, T, d) -> (B, G, P + T, d)."""
    return torch.cat([prefix[which], own], dim=2)


def _of(mask: Tensor, part: slice) -> Tensor:
    """The mask's rows of a part; a mask of one row is everybody's."""
    return mask if len(mask) == 1 else mask[part]


def _parts(batch: int, scores: int, at_once: int) -> list[slice]:
    """Rows of the batch that are worked on at once; `scores` of a row."""
    size = max(1, at_once // scores)
    return [slice(i, i + size) for i in range(0, batch, size)]
