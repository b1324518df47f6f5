"""The copy of a model that sampling decodes with: it shares what it can, and lasts for one rollout."""

from __future__ import annotations

from copy import deepcopy

import torch
from transformers import PreTrainedModel

from align.engine.cache import growing_cache
from align.engine.casting import cast_products
from align.engine.fast.prepacked import can_pack, pack_products


def sampling_copy(model: PreTrainedModel, dtype: torch.dtype, *, own: bool = False) -> PreTrainedModel:
    """What computes as `model` does, until the next update of its weights; itself where there is nothing to gain.

    Weights that autocast rounds in every pass are rounded once (casting.py) and, where that helps, laid out for few
    rows (packing.py). Everything else is shared.

    Args:
        own: `model` is nobody else's: it is changed, and its weights go as others take their place.
    """
    if dtype is torch.float32:
        return model
    # The copy shares every tensor: what follows replaces, and never writes.
    copy = model if own else deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})
    if can_pack(copy, dtype) and growing_cache(copy) is not None:  # others may read weights without the layer
        pack_products(copy)
    cast_products(copy, dtype)
    return copy
