"""Caches of keys and values for transformers' models."""

from __future__ import annotations

import inspect

from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


def growing_cache(model: PreTrainedModel) -> DynamicCache | None:
    """An empty cache whose rows can be picked and that gradients flow through.

    None for models that keep something else than keys and values, or that choose their cache themselves.
    """
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return None
    cache = DynamicCache(config=model.config)
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        return None
    return cache
