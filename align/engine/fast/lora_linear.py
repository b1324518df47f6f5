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
    rows = states.reshape(-1, states.shape[-1])
    # In rows here: a view that the function itself returned could not be added to in place, as some models do.
    return _LoraLinear.apply(rows, weight, bias, down, up).view(*states.shape[:-1], len(weight))


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor) -> Tensor:
        low = rows @ down.t()  # (n, r)
        out = torch.nn.functional.linear(rows, weight, bias).addmm_(low, up.t())
        ctx.save_for_backward(rows, low, weight, down, up)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, Tensor | None, Tensor | None]:
        rows, low, weight, down, up = ctx.saved_tensors
        of_rows, _, _, of_down, of_up = ctx.needs_input_grad
        of_low = gradient @ up  # (n, r)
        return (
            (gradient @ weight).addmm_(of_low, down) if of_rows else None,
            None,
            None,
            of_low.t() @ rows if of_down else None,
            (low.t() @ gradient).t() if of_up else None,
        )
