"""A linear layer with its low-rank update in one function: the sum of its parts, and its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from align.engine.fast.lora_linear import lora_linear


def parts(dtype: torch.dtype = torch.float64, bias: bool = True) -> list[torch.Tensor | None]:
    """States (2, 5, 6), weight (4, 6), bias, down (3, 6), up (4, 3)."""
    rng = torch.Generator().manual_seed(0)
    shapes = ((2, 5, 6), (4, 6), (4,), (3, 6), (4, 3))
    drawn = [torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype) for shape in shapes]
    return [None if i == 2 and not bias else t for i, t in enumerate(drawn)]


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_sum(bias):
    states, weight, b, down, up = parts(bias=bias)
    expected = nn.functional.linear(states, weight, b) + states @ down.T @ up.T
    torch.testing.assert_close(lora_linear(states, weight, b, down, up), expected, rtol=0, atol=1e-13)


def test_gradients_are_those_of_finite_differences():
    states, weight, bias, down, up = parts()
    trained = [t.requires_grad_() for t in (states, down, up)]
    assert torch.autograd.gradcheck(lambda x, a, b: lora_linear(x, weight, bias, a, b), trained)


@pytest.mark.parametrize("wanted", [(0,), (3,), (4,), (3, 4), (0, 3)])
def test_only_what_is_asked_for_gets_a_gradient(wanted):
    """The first layer's states need none, and a frozen adapter's matrices neither."""
    given, again = parts(), parts()
    for tensors in (given, again):
        for i in wanted:
            tensors[i].requires_grad_()
    states, weight, bias, down, up = again
    direction = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (lora_linear(*given) * direction).sum().backward()
    ((nn.functional.linear(states, weight, bias) + states @ down.T @ up.T) * direction).sum().backward()
    for i, (found, expected) in enumerate(zip(given, again, strict=True)):
        assert (found.grad is not None) == (i in wanted)
        if i in wanted:
            torch.testing.assert_close(found.grad, expected.grad, rtol=0, atol=1e-12)


def test_an_update_of_zero_changes_no_bit():
    """B is 0 at the start: KL to the base must be exactly 0."""
    states, weight, bias, down, up = parts(torch.bfloat16)
    found = lora_linear(states, weight, bias, down, torch.zeros_like(up))
    assert torch.equal(found, nn.functional.linear(states, weight, bias))
