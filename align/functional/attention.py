"""Attention as products and a softmax: on CPUs faster than torch's fused kernel, gradient included, if not too long.

In bf16 at 64 to 128 queries two to three times as fast (`python scripts/bench/techniques.py --attention`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_AT_ONCE = 2**19  # scores that are worked on at once: few enough to stay in the cache


def grouped_attention(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, scale: float) -> Tensor:
    """softmax(scale Q K' + mask) V, heads that share keys and values as rows of one product.

    Scores and softmax are float32; the products with the weights, and all of the gradient's, are in the inputs' type,
    as in the fused kernel. What is kept for the gradient is the weights in that type, B H T S of them.

    Args:
        query: (B, H, T, d), contiguous or not; H a multiple of G.
        key: (B, G, S, d), of query's type.
        value: (B, G, S, d), of query's type.
        hidden: (B or 1, 1, T, S) bool, True where a query does not see a key; a query that sees none gets 0.
        scale: Of the scores, usually d ** -0.5.

    Returns:
        (B, H, T, d)
    """
    return _GroupedAttention.apply(query, key, value, hidden, scale)


class _GroupedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, scale: float) -> Tensor:
        with torch.autocast("cpu", enabled=False):  # scores stay in float32
            q, k, v = _grouped(query, key, value)
            out = torch.empty_like(q)
            groups, rows, width = len(q) // len(query), q.shape[1], k.shape[1]
            weights = q.new_empty(len(q), rows, width) if any(ctx.needs_input_grad) else None
            blind = None if hidden is None else hidden.all(-1, keepdim=True)
            blind = blind if blind is not None and bool(blind.any()) else None
            for part, at in _parts(len(query), groups, rows * width):
                scores = torch.bmm(q[at].float() * scale, k[at].float().transpose(1, 2))
                by_head = scores.view(-1, query.shape[1], query.shape[2], width)
                if hidden is not None:
                    by_head.masked_fill_(_of(hidden, part), torch.finfo(scores.dtype).min)
                soft = torch.softmax(scores, -1, out=scores)
                if blind is not None:
                    by_head.masked_fill_(_of(blind, part), 0)
                typed = soft.to(q.dtype) if weights is None else weights[at].copy_(soft)
                torch.bmm(typed, v[at], out=out[at])
            if weights is not None:
                ctx.save_for_backward(q, k, v, weights)
                ctx.groups, ctx.scale = groups, scale
            return out.view(query.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        with torch.autocast("cpu", enabled=False):
            q, k, v, weights = ctx.saved_tensors
            shape = gradients[0].shape
            above = gradients[0].reshape(q.shape)
            dq, dk, dv = (torch.empty_like(t) for t in (q, k, v))
            for _, at in _parts(shape[0], ctx.groups, weights.shape[1] * weights.shape[2]):
                torch.bmm(weights[at].transpose(1, 2), above[at], out=dv[at])
                through = torch.bmm(above[at], v[at].transpose(1, 2))
                # d softmax: w (g - sum w g), in float32 inside
                through = torch.ops.aten._softmax_backward_data(through, weights[at], -1, through.dtype).mul_(ctx.scale)
                torch.bmm(through, k[at], out=dq[at])
                torch.bmm(through.transpose(1, 2), q[at], out=dk[at])
            kv = (shape[0], ctx.groups, *k.shape[1:])
            return dq.view(shape), dk.view(kv), dv.view(kv), None, None


def _grouped(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B G, H/G T, d), (B G, S, d), (B G, S, d)."""
    batch, heads, length, width = query.shape
    groups, keys = key.shape[1], key.shape[2]
    q = query.reshape(batch * groups, heads // groups * length, width)
    return q, key.reshape(batch * groups, keys, width), value.reshape(batch * groups, keys, width)


def _of(mask: Tensor, part: slice) -> Tensor:
    """The mask's rows of a part; a mask of one row is everybody's."""
    return mask if len(mask) == 1 else mask[part]


def _parts(batch: int, groups: int, scores: int) -> list[tuple[slice, slice]]:
    """Rows of the batch that are worked on at once, and their rows among (B G); `scores` of a group."""
    size = max(1, _AT_ONCE // (groups * scores))
    return [(slice(i, i + size), slice(i * groups, (i + size) * groups)) for i in range(0, batch, size)]
