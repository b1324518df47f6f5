"""Weights rounded once to what autocast rounds them to in every forward pass: the same numbers for less work."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


def cast_products(model: nn.Module, dtype: torch.dtype) -> None:
    """Store the weights of a frozen model's linear layers in `dtype`, in place; does nothing in fp32.

    Embeddings and norms stay as they are: autocast leaves them alone, and so the outputs under it do not change by a
    bit. A head that was tied to the embeddings has weights of its own afterwards.
    """
    if dtype is torch.float32:
        return
    for module in _products(model):
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))


def cast_copy(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A copy that shares everything with `model` but what `cast_products` changes; it follows no later update."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    copy = deepcopy(model, tensors)  # shares every tensor; casting then replaces and never writes
    cast_products(copy, dtype)
    return copy


def _products(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if type(module) in (nn.Linear, Conv1D)]
