"""PEFT's LoRA layer with its product and its update in one (functional/lora.py), where nothing else is asked of it."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

from align.engine.fast.lora_linear import lora_linear


class FusedLoraLinear(Linear):
    """Else PEFT's own layer: names, merging, saving and loading are its. PEFT knows it by the "Linear" in its name."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., in) -> (..., out)"""
        name, base = self._plain_adapter(), self.get_base_layer()
        if args or kwargs or name is None:
            return super().forward(x, *args, **kwargs)
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        kind = x.device.type
        mixed = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if mixed else x.dtype
        if base.weight.dtype is not dtype or not (mixed or down.dtype is dtype):  # to be rounded, or not to be
            return super().forward(x)
        bias = None if base.bias is None else base.bias.to(dtype)
        up = (up * self.scaling[name]).to(dtype)
        return lora_linear(x.to(dtype), base.weight, bias, down.to(dtype), up)

    def _plain_adapter(self) -> str | None:
        """The one adapter whose update is only added; None for none, several, and all that PEFT can do besides."""
        names = [name for name in self.active_adapters if name in self.lora_A]
        base = self.get_base_layer()
        if self.disable_adapters or self.merged or len(names) != 1 or type(base) is not nn.Linear:
            return None
        name = names[0]
        dropout = not isinstance(self.lora_dropout[name], nn.Identity)
        special = name in self.lora_variant or self.lora_bias[name] or dropout
        return None if special or any(p.requires_grad for p in base.parameters()) else name
