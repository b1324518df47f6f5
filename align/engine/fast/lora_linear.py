"""A frozen linear layer and its low-rank update as one function: the update is added in place, forward and backward."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def lora_linear(states: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor) -> Tensor:
    """states W' + bias + (states A') B' (LoRA, arXiv 2106.09685, eq. 3), the update added to the product in its place.

    Written as a sum of modules, the update and its gradient are tensors as large as the product, three for each: on a
    CPU more work than their own small products. All arguments are of one type; the update is rounded once, not thrice.

    Args:
        states: (..., in).
        weight: (out, in), frozen: no gradient reaches it or the bias.
        bias: (out,) or None.
        down: (r, in), LoRA's A.
        up: (out, r), LoRA's B times its scale alpha / r.

    Returns:
        (..., out)
    """
    return _LoraLinear.apply(states, weight, bias, down, up)


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor) -> Tensor:
        rows = states.reshape(-1, states.shape[-1])
        low = rows @ down.t()  # (n, r)
        out = torch.nn.functional.linear(rows, weight, bias).addmm_(low, up.t())
        ctx.save_for_backward(rows, low, weight, down, up)
        ctx.shape = states.shape
        return out.view(*states.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, Tensor | None, Tensor | None]:
        rows, low, weight, down, up = ctx.saved_tensors
        of_states, _, _, of_down, of_up = ctx.needs_input_grad
        gradient = gradient.reshape(-1, gradient.shape[-1])
        of_low = gradient @ up  # (n, r)
        return (
            (gradient @ weight).addmm_(of_low, down).view(ctx.shape) if of_states else None,
            None,
            None,
            of_low.t() @ rows if of_down else None,
            (low.t() @ gradient).t() if of_up else None,
        )
