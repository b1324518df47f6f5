"""The table of fast paths: what each is called in run.json, and the function that says why it is off."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from align.engine.fast import (
    captured,
    casting,
    cpu_attention,
    decoding,
    fused_lora,
    packed_rows,
    pages,
    prepacked,
    roomy_cache,
    sampling_copy,
    shared_prompts,
)
from align.models.adapters import SharedBase


@dataclass(frozen=True)
class Setting:
    """The policy of a run and the keys that its paths depend on."""

    model: PreTrainedModel
    dtype: torch.dtype
    shared: SharedBase | None
    adapter: str | None
    attention: str | None  # that the user chose; None = the engine chooses
    cuda_graphs: bool

    @property
    def copies_layers(self) -> bool:
        return decoding.why_not(self.model, self.dtype) is None


def _sampling_copy(s: Setting) -> str | None:
    if s.copies_layers:
        return "decoding_layers are a copy themselves"
    return sampling_copy.why_not(s.model, s.dtype, s.shared, s.adapter)


def _prepacked(s: Setting) -> str | None:
    if not s.copies_layers and (reason := sampling_copy.why_not(s.model, s.dtype, s.shared, s.adapter)) is not None:
        return reason
    return prepacked.why_not(s.model, s.dtype)


def _captured(s: Setting) -> str | None:
    return captured.why_not(s.model) if s.cuda_graphs else "rollout.cuda_graphs=false"


PATHS: dict[str, Callable[[Setting], str | None]] = {  # why a path is off for a run's policy; None = on
    "cpu_attention": lambda s: cpu_attention.why_not(s.model, s.attention),
    "packed_rows": lambda s: packed_rows.why_not(s.model),
    "shared_prompts": lambda s: shared_prompts.why_not(s.model),
    "fused_lora": lambda s: "no adapter" if s.shared is None else fused_lora.why_not(s.model),
    "rounded_weights": lambda s: casting.why_not(s.dtype),
    "roomy_cache": lambda s: roomy_cache.why_not(s.model),
    "decoding_layers": lambda s: decoding.why_not(s.model, s.dtype),
    "sampling_copy": _sampling_copy,
    "prepacked_weights": _prepacked,
    "captured_steps": _captured,
    "kept_pages": lambda s: pages.why_not(s.model.device),
}
