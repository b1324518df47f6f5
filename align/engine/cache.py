"""Caches of transformers' models: the name under which they are taken and returned, and the choice of their rows."""

import inspect

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, LinearAttentionCacheLayerMixin

NAMES = ("cache", "cache_params", "past_key_values")  # of an argument and output: transformers 5.24 renamed the first


def cache_name(model: PreTrainedModel) -> str | None:
    """The name of the model's argument for a cache; None where it takes none."""
    taken = inspect.signature(model.forward).parameters
    return next((name for name in NAMES if name in taken), None)


def repeat_rows(cache: Cache, rows: int, repeats: int) -> None:
    """Put `repeats` copies of each of the `rows` next to each other, in place."""
    if _has_states(cache):
        cache.reorder_cache(torch.arange(rows).repeat_interleave(repeats))
        return
    cache.batch_repeat_interleave(repeats)


def pick_rows(cache: Cache, rows: Tensor) -> None:
    """Go on with these rows alone, in this order, in place."""
    if _has_states(cache):
        cache.reorder_cache(rows)
        return
    cache.batch_select_indices(rows)


def seen_by(cache: Cache, attention_mask: Tensor) -> Tensor:
    """Cut a mask (B, S) to what decoding one token takes: the token's own where no layer keeps earlier keys."""
    keys = any(isinstance(layer, CacheLayerMixin) for layer in getattr(cache, "layers", (cache,)))
    return attention_mask if keys or not _has_states(cache) else attention_mask[:, -1:]


def _has_states(cache: Cache) -> bool:
    """Whether a layer keeps states of a recurrence or convolution, whose rows transformers moves for beams alone."""
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in getattr(cache, "layers", ()))
