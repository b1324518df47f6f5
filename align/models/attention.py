"""Attention of single tokens, as decoding does it, on CPUs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_packed"
# Kinds of model whose code does the same under any name of the attention; some build masks for "sdpa" alone.
CHECKED = {"llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "phi3", "granite", "starcoder2", "olmo2"}


def packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Transformers' SDPA, but a single token's heads that share keys and values are read as rows of one product.

    Torch's kernel for grouped heads on CPUs reads keys and values once a head; transformers packs the heads itself
    where there is padding, and leaves them to that kernel where there is none.

    Args:
        query: (B, H, 1, d); key and value are (B, H / groups, S, d).
        attention_mask: None, or broadcastable to (B, 1, 1, S).

    Returns:
        (B, 1, H, d), and None in place of the weights.
    """
    rows, heads, length, width = query.shape
    groups = key.shape[1]
    if length != 1 or heads == groups or settings.get("position_bias") is not None or settings.get("softcap"):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    together = query.reshape(rows, groups, heads // groups, width)
    scale = settings.get("scaling")
    out = nn.functional.scaled_dot_product_attention(together, key, value, attn_mask=attention_mask, scale=scale)
    return out.reshape(rows, 1, heads, width), None


def packs_heads(model: PreTrainedModel) -> bool:
    """Whether `packed_attention` is for this model: a kind that was checked, SDPA, shared keys and values, a CPU."""
    config = model.config.get_text_config()
    shared = getattr(config, "num_key_value_heads", None)
    grouped = shared is not None and shared != config.num_attention_heads and model.config.model_type in CHECKED
    return grouped and model.config._attn_implementation == "sdpa" and model.device.type == "cpu"


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
