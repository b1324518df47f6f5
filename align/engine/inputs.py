"""What a transformer is fed, whatever its architecture."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from align.types import Sequences

SHARED_FROM = 48  # tokens of a prompt
# On a GPU a second pass takes longer than reading prompts again (scripts/bench/graphs.py); long ones would fill memory.
SHARED_FROM_ON_GPU = 256
SHARED_SAVES = 0.2  # of the tokens that all rows have together


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


def shared_prompts(batch: Sequences) -> tuple[Tensor, Tensor, Tensor] | None:
    """The different prompts (U, P), their masks and which of them each row has (B,); None where sharing gains nothing.

    Reading a prompt once takes a second forward pass, or attention in parts (models/packed.py), which costs more than
    short or few common prompts save.
    """
    rows, width = batch.prompt_ids.shape
    if width < shared_from(batch.prompt_ids):
        return None
    both = torch.cat([batch.prompt_ids, batch.prompt_mask], dim=1)
    different, which = torch.unique(both, dim=0, return_inverse=True)
    saved, all_ = (rows - len(different)) * width, rows * (width + batch.response_ids.shape[1])
    if saved < SHARED_SAVES * all_:
        return None
    return different[:, :width], different[:, width:], which


def shared_from(like: Tensor) -> int:
    """How many tokens a prompt has that is read once for its rows, on a tensor's device."""
    return SHARED_FROM if like.device.type == "cpu" else SHARED_FROM_ON_GPU


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
