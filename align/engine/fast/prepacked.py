"""Weights laid out for products with few rows, as decoding on a CPU makes them in bf16."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn

_ROWS = 16  # that the layout is chosen for; any other number of rows is right, too


class PackedLinear(nn.Module):
    """A frozen linear layer in oneDNN's own layout: torch would bring the weights into it in every call.

    The operators are those that torch.compile's freezing uses (`torch/_inductor/fx_passes/mkldnn_fusion.py`).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """weight (out, in) and bias (out,) of any float type."""
        super().__init__()
        weight = weight.detach().to(torch.bfloat16)
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        self.bias = None if bias is None else bias.detach().to(torch.bfloat16)
        # For code that asks; whoever would multiply by it gets an error.
        self.weight = SimpleNamespace(dtype=weight.dtype, shape=weight.shape, device=weight.device)

    def forward(self, states: Tensor) -> Tensor:
        """(..., in) of any float type -> (..., out) bfloat16."""
        return torch.ops.mkldnn._linear_pointwise(states.to(torch.bfloat16), self.packed, self.bias, "none", [], "")


class StoredLinear(nn.Module):
    """A frozen linear layer whose weights are of the type it computes in."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """weight (out, in) and bias (out,) of one type."""
        super().__init__()
        self.register_buffer("weight", weight.detach(), persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach(), persistent=False)

    def forward(self, states: Tensor) -> Tensor:
        """(..., in) of any float type -> (..., out) of the weights'."""
        return nn.functional.linear(states.to(self.weight.dtype), self.weight, self.bias)


def can_pack(model: nn.Module, dtype: torch.dtype) -> bool:
    """Whether this machine and this torch have the product: bf16, on a CPU that computes in it."""
    device = next(model.parameters()).device
    return (
        dtype is torch.bfloat16
        and device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def pack_products(model: nn.Module) -> None:
    """Replace the linear layers of a copy that only samples, in place."""
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if type(module) is nn.Linear:
                setattr(parent, name, PackedLinear(module.weight, module.bias))
