"""Caches of keys and values for transformers' models."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

ROOM = 64  # tokens
NAMES = ("cache", "past_key_values")  # of a model's argument and output: transformers 5.24 renamed it


class RoomyLayer(DynamicLayer):
    """Keeps room for tokens to come, so that appending one copies no others; gradients do not flow through it."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers: dict[str, Tensor] = {}

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        key_states, value_states = _as_read(key_states), _as_read(value_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
        else:
            self.keys = self._appended("keys", self.keys, key_states)
            self.values = self._appended("values", self.values, value_states)
        return self.keys, self.values

    def _appended(self, name: str, held: Tensor, new: Tensor) -> Tensor:
        """held (B, heads, S, d) and new (B, heads, n, d) -> (B, heads, S + n, d), a view of the buffer."""
        buffer = self._buffers.get(name)
        start, end = held.shape[2], held.shape[2] + new.shape[2]
        # Whoever picked rows since made a copy of them; what is held is then no part of the buffer any more.
        if buffer is None or buffer.data_ptr() != held.data_ptr() or end > buffer.shape[2]:
            buffer = room_for(held, start, new.shape[2])
            self._buffers[name] = buffer
        buffer[:, :, start:end] = new
        return buffer[:, :, :end]


def room_for(held: Tensor, used: int, more: int) -> Tensor:
    """(B, heads, S, d) whose first `used` tokens are `held`'s, with room for `more`: itself, or a roomier copy."""
    if used + more <= held.shape[2]:
        return held
    roomier = held.new_empty(*held.shape[:2], used + more + ROOM, held.shape[3])
    roomier[:, :, :used] = held[:, :, :used]
    return roomier


def _as_read(states: Tensor) -> Tensor:
    """In the type that attention reads it in: autocast would bring all that is held into it for every token.

    Positions that are turned in fp32, as under fp32 weights, leave the keys in it.
    """
    kind = states.device.type
    return states.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else states


def cache_name(model: PreTrainedModel) -> str | None:
    """What this model calls its cache, as an argument and in its output; None if it takes none."""
    taken = inspect.signature(model.forward).parameters
    return next((name for name in NAMES if name in taken), None)


def growing_cache(model: PreTrainedModel) -> DynamicCache | None:
    """An empty cache whose rows can be picked: with room while sampling, else one that gradients flow through.

    A model that brings its own (models/decoding.py) gets that; no gradient flows through it.
    None for models that keep something else than keys and values, or that choose their cache themselves.
    """
    if cache_name(model) is None:
        return None
    if (own := getattr(model, "align_cache", None)) is not None:  # of models/decoding.py
        return own(model.config)
    cache = DynamicCache(config=model.config)
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        return None
    if not torch.is_grad_enabled():
        cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def sees_all(model: PreTrainedModel) -> bool:
    """Whether every token sees all before it: no layer lets keys go."""
    cache = growing_cache(model)
    return cache is not None and not any(layer.is_sliding for layer in cache.layers)
