"""Attention as products: the definition in float64, its gradient, and what splitting and garbage must not change."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from align.engine.fast.grouped_attention import SharedPrefix, grouped_attention

# rows, heads, groups, queries, keys, width
SIZES = [(3, 6, 2, 5, 9, 8), (2, 4, 4, 7, 7, 8), (5, 3, 1, 1, 6, 4), (2, 4, 2, 16, 20, 32)]


def inputs(sizes: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, ...]:
    """Query, key, value, what is hidden (not the first key), and a gradient from above."""
    rows, heads, groups, queries, keys, width = sizes
    rng = torch.Generator().manual_seed(seed)
    shapes = [(rows, heads, queries, width), *[(rows, groups, keys, width)] * 2, (rows, heads, queries, width)]
    q, k, v, above = (torch.randn(shape, generator=rng).to(dtype) for shape in shapes)
    hidden = torch.rand(rows, 1, queries, keys, generator=rng) < 0.4
    hidden[..., 0] = False
    return q, k, v, hidden, above


def by_definition(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None, scale: float) -> Tensor:
    """Head by head."""
    share = q.shape[1] // k.shape[1]
    out = []
    for head in range(q.shape[1]):
        scores = scale * q[:, head] @ k[:, head // share].transpose(1, 2)
        if hidden is not None:
            scores = scores.masked_fill(hidden[:, 0], -torch.inf)
        out.append(scores.softmax(-1) @ v[:, head // share])
    return torch.stack(out, dim=1)


def both(function, q, k, v, hidden, above, scale=0.3) -> list[Tensor]:
    """The output and the gradients of query, key and value."""
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    out = function(*leaves, hidden, scale)
    out.backward(above)
    return [out.detach(), *(t.grad for t in leaves)]


@pytest.mark.parametrize("at_once", [1, 2**19])  # a row of the batch at a time, or all
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_definition_and_gradient(sizes, masked, at_once):
    q, k, v, hidden, above = inputs(sizes)
    kept = [t.clone() for t in (q, k, v)]
    found = both(partial(grouped_attention, at_once=at_once), q, k, v, hidden if masked else None, above)
    double = [t.double() for t in (q, k, v)]
    expected = both(by_definition, *double, hidden if masked else None, above.double())
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=5e-6)
    assert all(torch.equal(a, b) for a, b in zip(kept, (q, k, v), strict=True))  # nothing is written over


def test_one_mask_for_all_rows():
    q, k, v, hidden, above = inputs(SIZES[0])
    one = hidden[:1]
    found = both(grouped_attention, q, k, v, one, above)
    expected = both(grouped_attention, q, k, v, one.expand(3, -1, -1, -1), above)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_hidden_key_changes_nothing_and_gets_nothing():
    q, k, v, _, above = inputs(SIZES[0])
    hidden = torch.zeros(3, 1, 5, 9, dtype=torch.bool)
    hidden[..., 4] = True
    found = both(grouped_attention, q, k, v, hidden, above)
    k[:, :, 4], v[:, :, 4] = 1e4, -1e4
    again = both(grouped_attention, q, k, v, hidden, above)
    assert torch.equal(found[0], again[0])
    assert float(again[2][:, :, 4].abs().max()) == float(again[3][:, :, 4].abs().max()) == 0
    assert torch.equal(found[1], again[1])


def test_a_query_that_sees_nothing_gets_nothing_and_gives_nothing():
    """A place of padding, as in torch's kernel."""
    q, k, v, hidden, above = inputs(SIZES[0])
    hidden[0, :, 2] = True
    found = both(grouped_attention, q, k, v, hidden, above)
    assert float(found[0][0, :, 2].abs().max()) == float(found[1][0, :, 2].abs().max()) == 0
    above[0, :, 2] = 1e4
    again = both(grouped_attention, q, k, v, hidden, above)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


@pytest.mark.parametrize("sizes", SIZES)
def test_bf16_is_as_near_as_torchs_kernel(sizes):
    """Against float64: no gradient further off than 1.5 times torch's own, in norm."""
    q, k, v, hidden, above = inputs(sizes, torch.bfloat16)
    share = sizes[1] // sizes[2]

    def kernel(q, k, v, hidden, scale):
        k, v = (t.repeat_interleave(share, 1) for t in (k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=~hidden, scale=scale)

    truth = both(by_definition, *[t.double() for t in (q, k, v)], hidden, above.double())
    ours, theirs = both(grouped_attention, q, k, v, hidden, above), both(kernel, q, k, v, hidden, above)
    for a, b, exact in zip(ours, theirs, truth, strict=True):
        assert a.dtype is torch.bfloat16
        off = [float((t.double() - exact).norm()) for t in (a, b)]
        assert off[0] <= 1.5 * off[1] + 1e-6 and off[0] < 0.01 * float(exact.norm()) + 1e-6


def test_scores_are_not_rounded():
    """Scores near 60, 0.2 apart: bf16 would make them equal, or a quarter apart."""
    q = torch.full((1, 1, 2, 4), 4.0, dtype=torch.bfloat16)
    k = torch.tensor([[3.75, 3.75, 3.75, 3.75], [3.75, 3.75, 3.75, 3.703125]], dtype=torch.bfloat16).view(1, 1, 2, 4)
    v = torch.tensor([[1.0], [0.0]], dtype=torch.bfloat16).expand(2, 4).reshape(1, 1, 2, 4)
    out = grouped_attention(q, k, v, None, 1.0)
    expected = torch.sigmoid(torch.tensor(4 * (3.75 - 3.703125)))
    assert float(out[0, 0, 0, 0]) == pytest.approx(float(expected), abs=2e-3)


def test_no_gradient_keeps_nothing_and_autocast_changes_nothing():
    q, k, v, hidden, above = inputs(SIZES[0], torch.bfloat16)
    plain = both(grouped_attention, q, k, v, hidden, above)
    with torch.autocast("cpu", torch.bfloat16):
        found = both(grouped_attention, q, k, v, hidden, above)
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))
    with torch.no_grad():
        assert torch.equal(grouped_attention(q, k, v, hidden, 0.3), plain[0])


@pytest.mark.parametrize("at_once", [1, 10**9])
@pytest.mark.parametrize("masked", [False, True])
def test_prompts_before_several_rows_are_those_rows_keys(masked, at_once):
    """Output and all five gradients, with the prompts' keys put before each row by autograd; to 1e-5."""
    rng = torch.Generator().manual_seed(0)
    shapes = {"query": (5, 4, 3, 8), "key": (5, 2, 3, 8), "value": (5, 2, 3, 8), "first": (2, 2, 6, 8)}
    given = [torch.randn(shape, generator=rng) for shape in (*shapes.values(), shapes["first"])]
    which = torch.tensor([1, 0, 1, 1, 0])
    hidden = torch.rand(5, 1, 3, 9, generator=rng) < 0.3 if masked else None
    above, found = torch.randn(5, 4, 3, 8, generator=rng), []
    for apart in (True, False):
        query, key, value, *first = (t.clone().requires_grad_() for t in given)
        prefix = SharedPrefix(*first, which)
        if apart:
            out = grouped_attention(query, key, value, hidden, 0.3, prefix, at_once)
        else:
            out = grouped_attention(query, *prefix.rows(key, value), hidden, 0.3, at_once=at_once)
        out.backward(above)
        found.append([out.detach(), query.grad, key.grad, value.grad, *(t.grad for t in first)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
