"""What a transformer is fed, whatever its architecture."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions that start at 0 on the first real token of a left-padded row: (B, S) int64 (TRL issue 6819)."""
    return (attention_mask.cumsum(1) - 1).clamp(min=0)


def forward_arguments(model: nn.Module, attention_mask: Tensor) -> dict[str, Tensor]:
    """attention_mask and, where the architecture takes them, position_ids (ALiBi models read the mask alone)."""
    arguments = {"attention_mask": attention_mask}
    if "position_ids" in inspect.signature(model.forward).parameters:
        arguments["position_ids"] = position_ids(attention_mask)
    return arguments


@contextmanager
def recomputing(model: PreTrainedModel) -> Iterator[None]:
    """Training mode around a forward pass with gradients: transformers checkpoints activations in no other.

    That is all the mode does here, as no model has dropout. Nothing happens unless checkpointing is on.
    """
    if not torch.is_grad_enabled() or not model.is_activation_checkpointing:
        yield
        return
    model.train()
    try:
        yield
    finally:
        model.eval()


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Mixed precision around a forward pass; does nothing in fp32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32)
