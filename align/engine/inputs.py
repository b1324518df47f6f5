"""Arguments and modes of a transformer's forward pass, whatever its architecture."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions that start at 0 on the first real token of a left-padded row: (B, S) int64 (TRL issue 6819)."""
    return (attention_mask.cumsum(1) - 1).clamp(min=0)


def forward_arguments(model: nn.Module, attention_mask: Tensor, last: int | None = None) -> dict[str, Tensor]:
    """attention_mask and, where the architecture takes them, position_ids (ALiBi models read the mask alone).

    Args:
        last: How many of the mask's tokens are read, behind those in a cache; None = all.
    """
    arguments = {"attention_mask": attention_mask}
    if "position_ids" in inspect.signature(model.forward).parameters:
        arguments["position_ids"] = position_ids(attention_mask)[:, -(last or 0) :]
    return arguments


def last_places(n: int, like: Tensor) -> Tensor:
    """Indices of the last n positions, for `logits_to_keep`.

    Indices copy the states they pick, and the head is one product for all rows. A number would be a slice, whose rows
    do not lie side by side: without gradients torch multiplies row by row then, in bf16 on CPUs with a copy of the
    head's weights for each (`should_fold`, ATen/native/LinearAlgebra.cpp).
    """
    return torch.arange(-n, 0, device=like.device)


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
