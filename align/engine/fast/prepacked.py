"""Weights laid out for products with few rows, as decoding on a CPU makes them in bf16."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from align.engine.compat import packed_product, packed_weight, unpackable

_ROWS = 16  # that the layout is chosen for; any other number of rows is right, too


def why_not(model: nn.Module, dtype: torch.dtype) -> str | None:
    """Why products keep torch's layout of the weights; None where oneDNN's is called."""
    if dtype is not torch.bfloat16:
        return f"oneDNN packs weights for bf16, not {str(dtype).removeprefix('torch.')}"
    device = next(model.parameters()).device
    return f"the model is on {device.type}" if device.type != "cpu" else unpackable()


class PackedLinear(nn.Module):
    """A frozen linear layer in oneDNN's own layout, into which torch would bring the weights in every call.

    The operators are those that torch.compile's freezing uses (`torch/_inductor/fx_passes/mkldnn_fusion.py`).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """weight (out, in) and bias (out,) of any float type."""
        super().__init__()
        weight = weight.detach().to(torch.bfloat16)
        self.packed = packed_weight(weight, _ROWS)
        self.bias = None if bias is None else bias.detach().to(torch.bfloat16)
        # For code that reads these; a product with it fails.
        self.weight = SimpleNamespace(dtype=weight.dtype, shape=weight.shape, device=weight.device)

    def forward(self, states: Tensor) -> Tensor:
        """(..., in) of any float type -> (..., out) bfloat16."""
        return packed_product(states.to(torch.bfloat16), self.packed, self.bias)


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


def pack_products(model: nn.Module) -> None:
    """Replace the linear layers of a copy that only samples, in place."""
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if type(module) is nn.Linear:
                setattr(parent, name, PackedLinear(module.weight, module.bias))
