"""Prompts that several rows of a batch begin with, read once in training."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from align.engine.fast import packed_rows, roomy_cache
from align.engine.fast.limits import Limits
from align.types import Sequences


def why_not(model: PreTrainedModel) -> str | None:
    """Why a shared prompt is read with every row; None where once is enough, in the packed row or through a cache."""
    if packed_rows.why_not(model) is None:
        return None
    if model.is_activation_checkpointing:
        return "activations are recomputed, which no cache survives"
    return roomy_cache.why_not(model)


def shared_prompts(batch: Sequences, limits: Limits) -> tuple[Tensor, Tensor, Tensor] | None:
    """The different prompts (U, P), their masks and which of them each row has (B,); None where sharing gains nothing.

    Reading a prompt once takes a second forward pass, or attention in parts (packed_rows.py), which costs more than
    short or few common prompts save.
    """
    rows, width = batch.prompt_ids.shape
    if width < shared_from(batch.prompt_ids, limits):
        return None
    both = torch.cat([batch.prompt_ids, batch.prompt_mask], dim=1)
    different, which = torch.unique(both, dim=0, return_inverse=True)
    saved, all_ = (rows - len(different)) * width, rows * (width + batch.response_ids.shape[1])
    if saved < limits.shared_saves * all_:
        return None
    return different[:, :width], different[:, width:], which


def shared_from(like: Tensor, limits: Limits) -> int:
    """Tokens from which a prompt is read once, on a tensor's device."""
    return limits.shared_from if like.device.type == "cpu" else limits.shared_from_on_gpu
