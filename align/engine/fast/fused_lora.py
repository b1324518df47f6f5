"""PEFT's LoRA layer with its product and its update in one (lora_linear.py), where it does nothing else."""

from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import Linear
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from align.engine.compat import make_lora_layers, untested
from align.engine.fast.lora_linear import lora_linear


def why_not(base: PreTrainedModel) -> str | None:
    """Why adapters on `base` are PEFT's own layers; None where they are `FusedLoraLinear`."""
    if getattr(base, "is_quantized", False):  # whose layers are linear ones as well
        return "a quantized base has layers of its own"
    if any(isinstance(module, Conv1D) for module in base.modules()):
        return f"{type(base).__name__} has convolutions for linear layers"
    return untested("peft")


def use(base: PreTrainedModel, settings: LoraConfig) -> None:
    """Have PEFT make `FusedLoraLinear` layers under these settings, where they apply."""
    if why_not(base) is None:
        make_lora_layers(settings, FusedLoraLinear)


class FusedLoraLinear(Linear):
    """PEFT's own layer but for `forward`. PEFT recognises the layer by the "Linear" in its name."""

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
        """The one adapter whose update is only added; None for none, several, and variants of LoRA."""
        names = [name for name in self.active_adapters if name in self.lora_A]
        base = self.get_base_layer()
        if self.disable_adapters or self.merged or len(names) != 1 or type(base) is not nn.Linear:
            return None
        name = names[0]
        dropout = not isinstance(self.lora_dropout[name], nn.Identity)
        special = name in self.lora_variant or self.lora_bias[name] or dropout
        return None if special or any(p.requires_grad for p in base.parameters()) else name
