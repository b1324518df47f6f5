"""Caches of keys and values with room for tokens to come, so that appending one copies no others."""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from align.engine.cache import cache_name
from align.engine.fast.limits import Limits


def why_not(model: PreTrainedModel) -> str | None:
    """Why a model keeps the cache that it makes itself; None where it takes `growing_cache`."""
    if growing_cache(model) is None:
        return f"{type(model).__name__} keeps something else than keys and values"
    return None


class RoomyLayer(DynamicLayer):
    """A layer's keys and values, views of buffers with `room` for more tokens; gradients do not flow through it."""

    def __init__(self, room: int = Limits.room) -> None:
        super().__init__()
        self._room = room
        self._held: dict[str, Tensor] = {}

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
        buffer = self._held.get(name)
        start, end = held.shape[2], held.shape[2] + new.shape[2]
        # Rows that were picked since are a copy: `held` is no part of the buffer any more.
        if buffer is None or buffer.data_ptr() != held.data_ptr() or end > buffer.shape[2]:
            buffer = room_for(held, start, new.shape[2], self._room)
            self._held[name] = buffer
        buffer[:, :, start:end] = new
        return buffer[:, :, :end]


def room_for(held: Tensor, used: int, more: int, room: int) -> Tensor:
    """(B, heads, S, d) whose first `used` tokens are `held`'s, with place for `more`: itself, or a copy with `room`."""
    if used + more <= held.shape[2]:
        return held
    roomier = held.new_empty(*held.shape[:2], used + more + room, held.shape[3])
    roomier[:, :, :used] = held[:, :, :used]
    return roomier


def _as_read(states: Tensor) -> Tensor:
    """In the type that attention reads, since autocast would convert all that is held for every token.

    Rotary positions that are computed in fp32, as under fp32 weights, leave the keys in it.
    """
    kind = states.device.type
    return states.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else states


def growing_cache(model: PreTrainedModel, room: int = Limits.room) -> DynamicCache | None:
    """An empty cache whose rows can be picked: with room without gradients, else one that gradients flow through.

    Layers of our own (decoding.py) bring theirs, through which no gradient flows. None for models that keep something
    else than keys and values, or that choose their cache themselves.
    """
    if cache_name(model) is None:
        return None
    if (own := getattr(model, "align_cache", None)) is not None:
        return own(model.config)
    cache = DynamicCache(config=model.config)
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        return None
    if not torch.is_grad_enabled():
        cache.layers = [RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def sees_all(model: PreTrainedModel) -> bool:
    """Whether every token sees all before it: no layer lets keys go."""
    cache = growing_cache(model)
    return cache is not None and not any(layer.is_sliding for layer in cache.layers)
