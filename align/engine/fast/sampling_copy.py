"""The copy of a model that sampling decodes with: it shares what it can, and lasts for one rollout."""

from copy import deepcopy

import torch
from transformers import PreTrainedModel

from align.engine.fast import prepacked, roomy_cache
from align.engine.fast.casting import cast_products
from align.models.adapters import SharedBase


def why_not(model: PreTrainedModel, dtype: torch.dtype, shared: SharedBase | None, adapter: str | None) -> str | None:
    """Why a role is sampled from as it is; None where a copy has its adapter merged or its weights rounded once."""
    if shared is None:
        return "fp32 weights without an adapter are read as they are" if dtype is torch.float32 else None
    if adapter is None:
        return "the bare base is read as it is"
    return "an adapter is not merged into quantized weights" if getattr(model, "is_quantized", False) else None


def merged_copy(model: PreTrainedModel, dtype: torch.dtype, shared: SharedBase, adapter: str) -> PreTrainedModel:
    """A copy with the adapter merged, its weights rounded after that; call it inside `Policy.active`."""
    merged = shared.merged(adapter)
    return model if merged is None else sampling_copy(merged, dtype, own=True)


def sampling_copy(model: PreTrainedModel, dtype: torch.dtype, *, own: bool = False) -> PreTrainedModel:
    """Copy `model` as it is until the next update of its weights; in fp32 itself.

    Weights that autocast rounds in every pass are rounded once (casting.py) and, where that helps, laid out for few
    rows (prepacked.py). Everything else is shared.

    Args:
        own: `model` is nobody else's: it is changed, and its weights are freed one by one.
    """
    if dtype is torch.float32:
        return model
    # The copy shares every tensor: what follows replaces, and never writes.
    copy = model if own else deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})
    if prepacked.why_not(copy, dtype) is None and roomy_cache.why_not(copy) is None:  # others may read bare weights
        prepacked.pack_products(copy)
    cast_products(copy, dtype)
    return copy
