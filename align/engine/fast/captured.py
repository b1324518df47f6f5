"""Decoding on tensors that stay where they are: a GPU captures the operations of a step once, and replays them.

A small model's step is a thousand short kernels, and launching each takes longer than running it
(`python scripts/bench/graphs.py`).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from align.engine.compat import attention_of, untested
from align.engine.draws import Draws
from align.engine.fast.cpu_attention import CHECKED
from align.engine.fast.limits import Limits
from align.engine.fast.roomy_cache import sees_all
from align.errors import InputError

# Kinds whose forward pass reads nothing back from the GPU and takes a finished mask; experts read which were chosen.
CAPTURED = CHECKED - {"mixtral", "qwen2_moe"}
_LENGTH_DEPENDENT = ("dynamic", "longrope")  # rotary kinds that read back the longest position of a batch
_ALIGNED = 16  # keys: kernels copy a mask of any other width
_HIDDEN = -30_000.0  # added to scores: a weight of exactly 0, and no infinity that a kernel may take from another


def why_not(model: PreTrainedModel) -> str | None:
    """Why each decoding step of this model is launched kernel by kernel; None where it is captured and replayed."""
    if model.device.type != "cuda":
        return f"the model is on {model.device.type}"
    return varying(model) or untested("torch", "transformers")


def varying(model: PreTrainedModel) -> str | None:
    """Why decoding steps differ, on any device; None where all are the same operations on tensors of one shape."""
    config, attention = model.config, attention_of(model)
    if not type(model).__module__.startswith("transformers.") or config.model_type not in CAPTURED:
        return f"{type(model).__name__} is none of the kinds whose code was read"
    if getattr(model, "is_quantized", False):
        return "quantized weights"
    if attention not in ("sdpa", "eager"):
        return f"its attention is {attention}"
    rotary = getattr(config, "rope_parameters", None) or {}
    if rotary.get("rope_type") in _LENGTH_DEPENDENT:
        return f"{rotary['rope_type']} positions read the longest length back"
    return None if sees_all(model) else "a sliding window lets keys go"


class FixedLayer(DynamicLayer):
    """A layer's keys and values (B, G, S, d) with room for all tokens to come, at fixed places in memory."""

    def __init__(self, held: DynamicLayer, at: Tensor, room: int) -> None:
        """Takes over what `held` holds. `at` (1,) int64 is where the next token goes; the owner moves it."""
        super().__init__()
        self.lazy_initialization(held.keys, held.values)
        self.keys, self.values = _with_room(held.keys, room), _with_room(held.values, room)
        self._at = at

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Write one more token of each row; returns the whole room, which the mask hides."""
        self.keys.index_copy_(2, self._at, key_states.to(self.keys.dtype))
        self.values.index_copy_(2, self._at, value_states.to(self.values.dtype))
        return self.keys, self.values


class FixedDecoder:
    """Decodes token after token of B rows; the cache's layers are exchanged for ones with room."""

    def __init__(
        self,
        forward: Callable[..., Tensor],
        cache: Cache,
        attention_mask: Tensor,
        more: int,
        dtype: torch.dtype,
    ) -> None:
        """
        Args:
            forward: From input_ids (B, 1), the cache, position_ids and an added mask to logits (B, 1, V).
            attention_mask: (B, P), of what the cache holds.
            more: Tokens to come, at most.
            dtype: That attention reads the mask in.
        """
        rows, width = attention_mask.shape
        room = -(-(width + more) // _ALIGNED) * _ALIGNED
        self._forward, self._cache = forward, cache
        self._at = torch.tensor([width], device=attention_mask.device)
        self._positions = attention_mask.sum(1, keepdim=True)
        self._mask = torch.full((rows, 1, 1, room), _HIDDEN, dtype=dtype, device=attention_mask.device)
        self._mask[:, 0, 0, :width].masked_fill_(attention_mask.bool(), 0)
        for i, layer in enumerate(cache.layers):
            cache.layers[i] = FixedLayer(layer, self._at, room)

    def keep(self, index: Tensor) -> None:
        """Go on with these rows alone; steps are of other tensors from now on."""
        self._cache.batch_select_indices(index)
        self._mask, self._positions = self._mask[index], self._positions[index]

    @property
    def bytes_a_row(self) -> int:
        """Of keys and values, which every step reads."""
        held = sum(layer.keys.nbytes + layer.values.nbytes for layer in self._cache.layers)
        return held // len(self._mask)

    def step(self, tokens: Tensor) -> Tensor:
        """Next-token logits (B, V) after one more token (B,) of each row."""
        self._mask.index_fill_(3, self._at, 0)
        arguments = {"position_ids": self._positions, "attention_mask": self._mask}
        logits = self._forward(tokens.unsqueeze(1), self._cache, **arguments)
        self._at += 1
        self._positions += 1
        return logits[:, -1]


class Replayed:
    """A step that is captured as a graph, where there is a GPU, and replayed; elsewhere it is run.

    The first call runs it, as libraries settle things then that cannot be captured. The step must change its tensors in
    place, and read nothing back from them.

    Raises:
        InputError: It cannot be captured; the key that switches graphs off is named.
    """

    _aside: torch.cuda.Stream | None = None  # one for all: cuBLAS keeps tens of MiB for every stream it has seen

    def __init__(self, step: Callable[[], None], device: torch.device) -> None:
        self._step = step
        self._graph = torch.cuda.CUDAGraph() if device.type == "cuda" else None
        self._calls = 0

    def __call__(self) -> None:
        self._calls += 1
        if self._graph is None:
            self._step()
        elif self._calls == 1:
            self._run_aside()
        else:
            if self._calls == 2:
                self._capture(self._graph)
            self._graph.replay()

    def _run_aside(self) -> None:
        aside, now = self._stream(), torch.cuda.current_stream()
        aside.wait_stream(now)
        with torch.cuda.stream(aside):
            self._step()
        now.wait_stream(aside)

    def _capture(self, graph: torch.cuda.CUDAGraph) -> None:
        # The mode: what other threads launch meanwhile is no part of the graph, and no mistake.
        try:
            with torch.cuda.graph(graph, stream=self._stream(), capture_error_mode="thread_local"):
                self._step()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise InputError(
                "rollout.cuda_graphs", "true", f"false, as a step cannot be captured ({reason})"
            ) from error

    @classmethod
    def _stream(cls) -> torch.cuda.Stream:
        if cls._aside is None:
            cls._aside = torch.cuda.Stream()
        return cls._aside


def replay(decoder: FixedDecoder, draws: Draws, more: int, device: torch.device, limits: Limits) -> None:
    """Draw up to `more` tokens of each live row by replayed steps.

    Rows that have ended are looked for every few steps, since a look waits for the GPU, and leave in bulk.
    """

    def step() -> None:
        draws.take(decoder.step(draws.last))

    replayed = Replayed(step, device)
    for done in range(more):
        if done % limits.look_every == 0:
            going = draws.going
            left = int(going.sum())
            draws.look(done + 1, left)
            if left == 0:
                return
            if (len(going) - left) * decoder.bytes_a_row * (more - done) > limits.capture_bytes:
                index = going.nonzero().squeeze(1)
                decoder.keep(index)
                draws.keep(index)
                replayed = Replayed(step, device)
        replayed()


def _with_room(held: Tensor, room: int) -> Tensor:
    """(B, G, S, d) -> (B, G, room, d), zeros behind what is held: what a mask hides must be numbers still."""
    roomy = held.new_zeros(*held.shape[:2], room, held.shape[3])
    roomy[:, :, : held.shape[2]] = held
    return roomy
