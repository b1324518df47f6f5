"""Every private function and attribute of torch, transformers and peft that the engine calls, and the versions tried.

A fast path that needs one calls `untested` first: on other versions the path is off, with the reason in run.json.
"""

import importlib.metadata
from copy import copy
from functools import cache
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers import PreTrainedModel

TESTED = {"torch": ("2.13",), "transformers": ("5.23", "5.24"), "peft": ("0.21",)}


def untested(*packages: str) -> str | None:
    """The first of these packages whose installed version is not in TESTED, in words; None where all are."""
    for package in packages:
        version = _version(package)
        if not any(version == known or version.startswith(f"{known}.") for known in TESTED[package]):
            return f"{package} {version}: its private functions were tried on {', '.join(TESTED[package]) or 'none'}"
    return None


@cache
def _version(package: str) -> str:
    return importlib.metadata.version(package)


# transformers ---------------------------------------------------------------------------------------------------------


def attention_of(model: PreTrainedModel) -> str:
    """The name of the attention that a model runs; `set_attn_implementation` is its public counterpart."""
    return getattr(model.config, "_attn_implementation", None) or "eager"


# torch ----------------------------------------------------------------------------------------------------------------


def unpackable() -> str | None:
    """Why oneDNN's packed products cannot be called; None where they can."""
    if (reason := untested("torch")) is not None:
        return reason
    names = ("_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise")
    there = torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)
    if not there or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "this CPU or this torch does not compute in bf16"
    return None


def packed_weight(weight: Tensor, rows: int) -> Tensor:
    """A bf16 weight (out, in) in the layout that oneDNN chooses for products with so many rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, rows)


def packed_product(states: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """states (..., in) times what `packed_weight` gave, plus bias: (..., out)."""
    return torch.ops.mkldnn._linear_pointwise(states, packed, bias, "none", [], "")


def softmax_gradient(gradient: Tensor, weights: Tensor) -> Tensor:
    """The gradient before a softmax over the last dimension: w (g - sum w g), the sum in float32."""
    return torch.ops.aten._softmax_backward_data(gradient, weights, -1, gradient.dtype)


def shell(module: nn.Module) -> Any:
    """A shallow copy of a module whose children can be exchanged without exchanging the module's own."""
    other = copy(module)
    other._modules = dict(module._modules)
    other.__dict__.pop("forward", None)  # that accelerate, or TRL, bound to this one object
    return other


# peft -----------------------------------------------------------------------------------------------------------------


def make_lora_layers(settings: LoraConfig, layer: type[nn.Module]) -> None:
    """Have PEFT put `layer` in place of its own layer for linear modules."""
    settings._register_custom_module({nn.Linear: layer})
