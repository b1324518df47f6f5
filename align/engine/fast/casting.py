"""Weights of frozen models rounded once to what autocast rounds them to in every forward pass: no bit changes."""

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


def why_not(dtype: torch.dtype) -> str | None:
    """Why frozen weights stay as they were loaded; None where they are rounded once."""
    return "fp32 is not rounded" if dtype is torch.float32 else None


def cast_products(model: nn.Module, dtype: torch.dtype) -> None:
    """Store the weights of a frozen model's linear layers in `dtype`, in place; does nothing in fp32.

    Embeddings and norms stay as they are: autocast leaves them alone, and so the outputs under it do not change by a
    bit. A head that was tied to the embeddings has weights of its own afterwards.
    """
    if why_not(dtype) is not None:
        return
    for module in _products(model):
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))


def _products(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if type(module) in (nn.Linear, Conv1D)]
